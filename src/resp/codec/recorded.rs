//! Bytes that a real redis-server 7.0.15 sent, for the decoder's tests.
//!
//! Recorded from a plain socket, one command a row: standalone, replica, cluster of two nodes and
//! sentinel, `DEBUG PROTOCOL` with `--enable-debug-command yes`. Nothing is edited. A
//! reply that was the same bytes in both protocols stands under RESP2 only; a push or an
//! attribute stands with the reply that came after it, if one did.

use super::Protocol;
use Protocol::{Resp2, Resp3};

/// The command, the protocol, and the bytes of the reply.
pub(super) const RECORDED: &[(&str, Protocol, &[u8])] = &[
    (
        "HELLO 2",
        Resp2,
        b"*14\r\n$6\r\nserver\r\n$5\r\nredis\r\n$7\r\nversion\r\n$6\r\n7.0.15\r\n$5\r\n\
          proto\r\n:2\r\n$2\r\nid\r\n:3\r\n$4\r\nmode\r\n$10\r\nstandalone\r\n$4\r\n\
          role\r\n$6\r\nmaster\r\n$7\r\nmodules\r\n*0\r\n",
    ),
    ("DEBUG PROTOCOL string", Resp2, b"$11\r\nHello World\r\n"),
    ("DEBUG PROTOCOL integer", Resp2, b":12345\r\n"),
    ("DEBUG PROTOCOL double", Resp2, b"$5\r\n3.141\r\n"),
    ("DEBUG PROTOCOL null", Resp2, b"$-1\r\n"),
    ("DEBUG PROTOCOL array", Resp2, b"*3\r\n:0\r\n:1\r\n:2\r\n"),
    (
        "DEBUG PROTOCOL map",
        Resp2,
        b"*6\r\n:0\r\n:0\r\n:1\r\n:1\r\n:2\r\n:0\r\n",
    ),
    (
        "DEBUG PROTOCOL verbatim",
        Resp2,
        b"$25\r\nThis is a verbatim\nstring\r\n",
    ),
    ("DEBUG PROTOCOL true", Resp2, b":1\r\n"),
    ("DEBUG PROTOCOL false", Resp2, b":0\r\n"),
    (
        "DEBUG PROTOCOL bignum",
        Resp2,
        b"$37\r\n1234567999999999999999999999999999999\r\n",
    ),
    ("PING", Resp2, b"+PONG\r\n"),
    ("SET", Resp2, b"+OK\r\n"),
    ("GET", Resp2, b"$1\r\nv\r\n"),
    ("PTTL", Resp2, b":-1\r\n"),
    (
        "unknown command",
        Resp2,
        b"-ERR unknown command 'NOSUCH', with args beginning with: 'a  b' \r\n",
    ),
    (
        "EVALSHA NOSCRIPT",
        Resp2,
        b"-NOSCRIPT No matching script. Please use EVAL.\r\n",
    ),
    (
        "EVAL nested",
        Resp2,
        b"*4\r\n:1\r\n$3\r\ntwo\r\n*2\r\n:3\r\n$-1\r\n+FINE\r\n",
    ),
    ("EVAL error in array", Resp2, b"*2\r\n-MY error\r\n:1\r\n"),
    (
        "EVAL bad",
        Resp2,
        b"-ERR user_script:1: Script attempted to access nonexistent global variable 'nosuch'\
          \x20script: c843e952e50a3cb0d663a5593c03b89bbafb6aeb, on @user_script:1.\r\n",
    ),
    ("EVAL map", Resp2, b"*2\r\n$1\r\na\r\n:1\r\n"),
    ("EVAL double", Resp2, b"$23\r\n1.5000000000000001e-300\r\n"),
    ("QUEUED", Resp2, b"+QUEUED\r\n"),
    (
        "EXEC",
        Resp2,
        b"*2\r\n$1\r\nw\r\n-ERR value is not an integer or out of range\r\n",
    ),
    ("EXEC aborted by WATCH", Resp2, b"*-1\r\n"),
    (
        "EXECABORT",
        Resp2,
        b"-EXECABORT Transaction discarded because of previous errors.\r\n",
    ),
    ("HGETALL", Resp2, b"*2\r\n$1\r\nf\r\n$1\r\nv\r\n"),
    ("HGETALL empty", Resp2, b"*0\r\n"),
    ("ZSCORE", Resp2, b"$5\r\n1e+20\r\n"),
    (
        "ZRANGE WITHSCORES",
        Resp2,
        b"*4\r\n$1\r\nb\r\n$5\r\n1e+20\r\n$1\r\na\r\n$3\r\ninf\r\n",
    ),
    (
        "LATENCY DOCTOR",
        Resp2,
        b"$288\r\n\
          I'm sorry, Dave, I can't do that. Latency monitoring is disabled in this Redis\
          \x20instance. You may use \"CONFIG SET latency-monitor-threshold <milliseconds>.\"\
          \x20in order to enable it. If we weren't in a deep space mission I'd suggest to\
          \x20take a look at https://redis.io/topics/latency-monitor.\n\r\n",
    ),
    (
        "NOPROTO",
        Resp2,
        b"-NOPROTO unsupported protocol version\r\n",
    ),
    (
        "CLIENT SETINFO in 7.0",
        Resp2,
        b"-ERR unknown subcommand 'SETINFO'. Try CLIENT HELP.\r\n",
    ),
    (
        "CLUSTER SLOTS, not a cluster",
        Resp2,
        b"-ERR This instance has cluster support disabled\r\n",
    ),
    (
        "WRONGTYPE",
        Resp2,
        b"-WRONGTYPE Operation against a key holding the wrong kind of value\r\n",
    ),
    (
        "HELLO 3",
        Resp3,
        b"%7\r\n$6\r\nserver\r\n$5\r\nredis\r\n$7\r\nversion\r\n$6\r\n7.0.15\r\n$5\r\n\
          proto\r\n:3\r\n$2\r\nid\r\n:3\r\n$4\r\nmode\r\n$10\r\nstandalone\r\n$4\r\n\
          role\r\n$6\r\nmaster\r\n$7\r\nmodules\r\n*0\r\n",
    ),
    ("DEBUG PROTOCOL double", Resp3, b",3.141\r\n"),
    ("DEBUG PROTOCOL null", Resp3, b"_\r\n"),
    ("DEBUG PROTOCOL set", Resp3, b"~3\r\n:0\r\n:1\r\n:2\r\n"),
    (
        "DEBUG PROTOCOL map",
        Resp3,
        b"%3\r\n:0\r\n#f\r\n:1\r\n#t\r\n:2\r\n#f\r\n",
    ),
    (
        "DEBUG PROTOCOL attrib",
        Resp3,
        b"|1\r\n$14\r\nkey-popularity\r\n*2\r\n$7\r\nkey:123\r\n:90\r\n$39\r\n\
          Some real reply following the attribute\r\n",
    ),
    (
        "DEBUG PROTOCOL push",
        Resp3,
        b">2\r\n$16\r\nserver-cpu-usage\r\n:42\r\n$40\r\n\
          Some real reply following the push reply\r\n",
    ),
    (
        "DEBUG PROTOCOL verbatim",
        Resp3,
        b"=29\r\ntxt:This is a verbatim\nstring\r\n",
    ),
    ("DEBUG PROTOCOL true", Resp3, b"#t\r\n"),
    ("DEBUG PROTOCOL false", Resp3, b"#f\r\n"),
    (
        "DEBUG PROTOCOL bignum",
        Resp3,
        b"(1234567999999999999999999999999999999\r\n",
    ),
    (
        "EVAL nested",
        Resp3,
        b"*4\r\n:1\r\n$3\r\ntwo\r\n*2\r\n:3\r\n_\r\n+FINE\r\n",
    ),
    ("EVAL map", Resp3, b"%1\r\n$1\r\na\r\n:1\r\n"),
    ("EVAL double", Resp3, b",1.5000000000000001e-300\r\n"),
    ("HGETALL", Resp3, b"%1\r\n$1\r\nf\r\n$1\r\nv\r\n"),
    ("HGETALL empty", Resp3, b"%0\r\n"),
    ("ZSCORE", Resp3, b",1e+20\r\n"),
    (
        "ZRANGE WITHSCORES",
        Resp3,
        b"*2\r\n*2\r\n$1\r\nb\r\n,1e+20\r\n*2\r\n$1\r\na\r\n,inf\r\n",
    ),
    ("SMEMBERS empty", Resp3, b"~0\r\n"),
    (
        "LATENCY DOCTOR",
        Resp3,
        b"=292\r\n\
          txt:I'm sorry, Dave, I can't do that. Latency monitoring is disabled in this Redis\
          \x20instance. You may use \"CONFIG SET latency-monitor-threshold <milliseconds>.\"\
          \x20in order to enable it. If we weren't in a deep space mission I'd suggest to\
          \x20take a look at https://redis.io/topics/latency-monitor.\n\r\n",
    ),
    (
        "SUBSCRIBE",
        Resp3,
        b">3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n",
    ),
    (
        "message push",
        Resp3,
        b">3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$5\r\nhello\r\n",
    ),
    (
        "invalidate push",
        Resp3,
        b">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nk\r\n",
    ),
    (
        "SUBSCRIBE",
        Resp2,
        b"*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n",
    ),
    (
        "message",
        Resp2,
        b"*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$5\r\nhello\r\n",
    ),
    (
        "READONLY",
        Resp2,
        b"-READONLY You can't write against a read only replica.\r\n",
    ),
    (
        "MASTERDOWN",
        Resp2,
        b"-MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.\r\n",
    ),
    (
        "ROLE",
        Resp2,
        b"*5\r\n$5\r\nslave\r\n$9\r\n127.0.0.1\r\n:27499\r\n$7\r\nconnect\r\n:-1\r\n",
    ),
    ("NOAUTH", Resp2, b"-NOAUTH Authentication required.\r\n"),
    (
        "HELLO NOAUTH",
        Resp2,
        b"-NOAUTH HELLO must be called with the client already authenticated, otherwise the\
          \x20HELLO AUTH <user> <pass> option can be used to authenticate the client and\
          \x20select the RESP protocol version at the same time\r\n",
    ),
    (
        "WRONGPASS",
        Resp2,
        b"-WRONGPASS invalid username-password pair or user is disabled.\r\n",
    ),
    (
        "NOPERM",
        Resp2,
        b"-NOPERM this user has no permissions to run the 'get' command\r\n",
    ),
    (
        "max clients",
        Resp2,
        b"-ERR max number of clients reached\r\n",
    ),
    (
        "OOM",
        Resp2,
        b"-OOM command not allowed when used memory > 'maxmemory'.\r\n",
    ),
    (
        "CLUSTERDOWN",
        Resp2,
        b"-CLUSTERDOWN Hash slot not served\r\n",
    ),
    (
        "CLUSTER SLOTS",
        Resp2,
        b"*2\r\n*3\r\n:0\r\n:8000\r\n*4\r\n$9\r\n127.0.0.1\r\n:27404\r\n$40\r\n\
          3f1d27d73816fc5d235f26cc6d4aaebf41979e60\r\n*2\r\n$8\r\nhostname\r\n$6\r\n\
          node-a\r\n*3\r\n:8001\r\n:16383\r\n*4\r\n$9\r\n127.0.0.1\r\n:27405\r\n$40\r\n\
          a73ec0609e68db00476d92e4b631e94a3bccdbb8\r\n*0\r\n",
    ),
    ("MOVED", Resp2, b"-MOVED 5061 127.0.0.1:27404\r\n"),
    ("MOVED", Resp2, b"-MOVED 8579 127.0.0.1:27405\r\n"),
    ("MOVED", Resp2, b"-MOVED 12739 127.0.0.1:27405\r\n"),
    (
        "CROSSSLOT",
        Resp2,
        b"-CROSSSLOT Keys in request don't hash to the same slot\r\n",
    ),
    (
        "SELECT in cluster",
        Resp2,
        b"-ERR SELECT is not allowed in cluster mode\r\n",
    ),
    (
        "CLUSTER SLOTS unknown-endpoint",
        Resp2,
        b"*2\r\n*3\r\n:0\r\n:8000\r\n*4\r\n$-1\r\n:27404\r\n$40\r\n\
          3f1d27d73816fc5d235f26cc6d4aaebf41979e60\r\n*4\r\n$2\r\nip\r\n$9\r\n\
          127.0.0.1\r\n$8\r\nhostname\r\n$6\r\nnode-a\r\n*3\r\n:8001\r\n:16383\r\n*4\r\n\
          $-1\r\n:27405\r\n$40\r\na73ec0609e68db00476d92e4b631e94a3bccdbb8\r\n*2\r\n$2\r\n\
          ip\r\n$9\r\n127.0.0.1\r\n",
    ),
    ("MOVED unknown-endpoint", Resp2, b"-MOVED 12739 :27405\r\n"),
    (
        "CLUSTER SLOTS hostname",
        Resp3,
        b"*2\r\n*3\r\n:0\r\n:8000\r\n*4\r\n$6\r\nnode-a\r\n:27404\r\n$40\r\n\
          3f1d27d73816fc5d235f26cc6d4aaebf41979e60\r\n%1\r\n$2\r\nip\r\n$9\r\n\
          127.0.0.1\r\n*3\r\n:8001\r\n:16383\r\n*4\r\n$1\r\n?\r\n:27405\r\n$40\r\n\
          a73ec0609e68db00476d92e4b631e94a3bccdbb8\r\n%1\r\n$2\r\nip\r\n$9\r\n\
          127.0.0.1\r\n",
    ),
    ("ASK", Resp3, b"-ASK 5061 ?:27405\r\n"),
    (
        "SENTINEL HELLO",
        Resp2,
        b"*12\r\n$6\r\nserver\r\n$5\r\nredis\r\n$7\r\nversion\r\n$6\r\n7.0.15\r\n$5\r\n\
          proto\r\n:2\r\n$2\r\nid\r\n:3\r\n$4\r\nmode\r\n$8\r\nsentinel\r\n$7\r\n\
          modules\r\n*0\r\n",
    ),
    (
        "SENTINEL GET-MASTER-ADDR-BY-NAME",
        Resp2,
        b"*2\r\n$9\r\n127.0.0.1\r\n$5\r\n27402\r\n",
    ),
    (
        "SENTINEL MASTER, unknown",
        Resp2,
        b"-ERR No such master with that name\r\n",
    ),
    (
        "SENTINEL MASTER",
        Resp2,
        b"*40\r\n$4\r\nname\r\n$5\r\nkiosk\r\n$2\r\nip\r\n$9\r\n127.0.0.1\r\n$4\r\n\
          port\r\n$5\r\n27402\r\n$5\r\nrunid\r\n$40\r\n\
          a5585cef6955ca8d160cdd487bb49fd6ff51b0d6\r\n$5\r\nflags\r\n$6\r\nmaster\r\n\
          $21\r\nlink-pending-commands\r\n$1\r\n0\r\n$13\r\nlink-refcount\r\n$1\r\n1\r\n\
          $14\r\nlast-ping-sent\r\n$1\r\n0\r\n$18\r\nlast-ok-ping-reply\r\n$3\r\n836\r\n\
          $15\r\nlast-ping-reply\r\n$3\r\n836\r\n$23\r\ndown-after-milliseconds\r\n$5\r\n\
          30000\r\n$12\r\ninfo-refresh\r\n$4\r\n1891\r\n$13\r\nrole-reported\r\n$6\r\n\
          master\r\n$18\r\nrole-reported-time\r\n$4\r\n1894\r\n$12\r\nconfig-epoch\r\n\
          $1\r\n0\r\n$10\r\nnum-slaves\r\n$1\r\n0\r\n$19\r\nnum-other-sentinels\r\n$1\r\n\
          0\r\n$6\r\nquorum\r\n$1\r\n1\r\n$16\r\nfailover-timeout\r\n$6\r\n180000\r\n\
          $14\r\nparallel-syncs\r\n$1\r\n1\r\n",
    ),
    (
        "SENTINEL MASTER",
        Resp3,
        b"%20\r\n$4\r\nname\r\n$5\r\nkiosk\r\n$2\r\nip\r\n$9\r\n127.0.0.1\r\n$4\r\n\
          port\r\n$5\r\n27402\r\n$5\r\nrunid\r\n$40\r\n\
          a5585cef6955ca8d160cdd487bb49fd6ff51b0d6\r\n$5\r\nflags\r\n$6\r\nmaster\r\n\
          $21\r\nlink-pending-commands\r\n$1\r\n0\r\n$13\r\nlink-refcount\r\n$1\r\n1\r\n\
          $14\r\nlast-ping-sent\r\n$1\r\n0\r\n$18\r\nlast-ok-ping-reply\r\n$2\r\n32\r\n\
          $15\r\nlast-ping-reply\r\n$2\r\n32\r\n$23\r\ndown-after-milliseconds\r\n$5\r\n\
          30000\r\n$12\r\ninfo-refresh\r\n$4\r\n2132\r\n$13\r\nrole-reported\r\n$6\r\n\
          master\r\n$18\r\nrole-reported-time\r\n$4\r\n2135\r\n$12\r\nconfig-epoch\r\n\
          $1\r\n0\r\n$10\r\nnum-slaves\r\n$1\r\n0\r\n$19\r\nnum-other-sentinels\r\n$1\r\n\
          0\r\n$6\r\nquorum\r\n$1\r\n1\r\n$16\r\nfailover-timeout\r\n$6\r\n180000\r\n\
          $14\r\nparallel-syncs\r\n$1\r\n1\r\n",
    ),
    // The commands of the store and of signing on, each with every answer it may get.
    ("AUTH", Resp2, b"+OK\r\n"),
    ("AUTH, wrong", Resp2, b"-WRONGPASS invalid username-password pair or user is disabled.\r\n"),
    ("CLIENT SETNAME", Resp2, b"+OK\r\n"),
    ("SELECT", Resp2, b"+OK\r\n"),
    ("ROLE, master", Resp2, b"*3\r\n$6\r\nmaster\r\n:0\r\n*0\r\n"),
    ("GET, nothing there", Resp2, b"$-1\r\n"),
    ("GET, nothing there", Resp3, b"_\r\n"),
    ("GETEX", Resp2, b"$7\r\n{\"a\":1}\r\n"),
    ("GETEX, nothing there", Resp2, b"$-1\r\n"),
    ("GETEX, nothing there", Resp3, b"_\r\n"),
    ("SET EX", Resp2, b"+OK\r\n"),
    ("SET XX, nothing there", Resp2, b"$-1\r\n"),
    ("SET XX, nothing there", Resp3, b"_\r\n"),
    ("DEL, nothing there", Resp2, b":0\r\n"),
    ("EVALSHA SET_UNCHANGED, changed", Resp2, b":0\r\n"),
    ("EVALSHA SET_UNCHANGED", Resp2, b":1\r\n"),
    ("EVALSHA DELETE_PRESENT, nothing there", Resp2, b":-1\r\n"),
    ("EVALSHA DELETE_UNCHANGED, changed", Resp2, b":-1\r\n"),
    ("EVALSHA TAKE", Resp2, b"*2\r\n:1\r\n:60000\r\n"),
    ("NOREPLICAS", Resp2, b"-NOREPLICAS Not enough good replicas to write.\r\n"),
    ("NOREPLICAS in EVALSHA", Resp2, b"-NOREPLICAS Not enough good replicas to write.\r\n"),
    ("OOM in EVALSHA", Resp2, b"-OOM command not allowed when used memory > 'maxmemory'.\r\n"),
    ("BUSY", Resp2, b"-BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.\r\n"),
    ("LOADING", Resp2, b"-LOADING Redis is loading the dataset in memory\r\n"),
    ("MISCONF", Resp2, b"-MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk. Commands that may modify the data set are disabled, because this instance is configured to report errors during writes if RDB snapshotting fails (stop-writes-on-bgsave-error option). Please check the Redis logs for details about the RDB error.\r\n"),
    ("CLUSTER SLOTS, one node", Resp2, b"*1\r\n*3\r\n:0\r\n:16383\r\n*4\r\n$0\r\n\r\n:43179\r\n$40\r\n56e3d3d4802665b8ae7da1ffd5038f42c663cb2b\r\n*0\r\n"),
    ("CLUSTER SLOTS, one node", Resp3, b"*1\r\n*3\r\n:0\r\n:16383\r\n*4\r\n$0\r\n\r\n:43179\r\n$40\r\n56e3d3d4802665b8ae7da1ffd5038f42c663cb2b\r\n%0\r\n"),
    ("ASKING", Resp2, b"+OK\r\n"),
];
