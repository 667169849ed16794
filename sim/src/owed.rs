//! Rules and faults that can be switched. Each was seen to break while its constant was `false`, and is `true` since kioskd
//! keeps it; the one that is left says what it does not keep.

/// While one shard of a cluster is in trouble, requests for the others' keys are not answered with 502, 503 or 504.
pub const SHARDS_ARE_APART: bool = true;

/// A list has each key that is there throughout, also one that moves from a master that is not read yet to one that was:
/// that could be known only by who follows all moves. (In slots that are moving, both masters' keys are read.)
pub const LISTS_HAVE_MOVED_KEYS: bool = false;

/// A list goes through the masters in the order of their lowest slots: it passes over none of them, and comes back to
/// none, when a reshard gives one of them a lower slot. (Replicas of kioskd learn of that within a minute or so.)
pub const LISTS_KEEP_THEIR_PLACE: bool = true;

/// A list follows a master that has been replaced to its successor, instead of 502 or 503 where a replica's map was old.
pub const LISTS_FOLLOW: bool = true;

/// A list waits for the servers to be known, as other requests do, in a process that has just started.
pub const LISTS_WAIT: bool = true;

/// A list's cursor calls a node that does not know its own host by one name, whichever replica has made it. Without
/// this, there are no such nodes in a cluster whose seeds are names: those are called by the names, too.
pub const OWN_NAME_IS_ONE: bool = true;

/// A client without requests asks for a new map when its nodes have gone elsewhere. Without this, no node moves in a
/// world in which little is asked, and in others it may be noticed late.
pub const IDLE_FINDS_NODES: bool = true;

/// Nodes that move take each other's addresses: who is connected to one in place of another, and is told that the slot is
/// at the name it has asked, looks the name up again.
pub const NODES_SWAP: bool = true;

/// The old address of a node that has moved is that of another cluster's node now, of which nothing is asked.
pub const STRANGERS_COME: bool = true;

/// Sentinels that tell nothing but the address are believed by majority. Without this, all of them have to agree: one
/// that is behind holds everybody back.
pub const ADDRESSES_BY_MAJORITY: bool = true;

/// A process that has just started believes a push at once, and not what it was told before. Without this, a push counts
/// as an answer in its first second, and what is heard in that counts a second later.
pub const FIRST_PUSHES_COUNT: bool = true;
