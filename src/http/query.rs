//! The query of a target: `name=value` pairs as HTML forms send them, and the names that the rules use.
//!
//! ```text
//! ?id=a%20b&&ttl&i%64=c    id: first "a%20b", and again      ttl: first ""      the empty pair is skipped
//! ```
//!
//! As with fields, one pass while the head is parsed finds which are present, and most of those that the rules look up
//! are not. A name is compared decoded; one with a malformed escape is an unknown name, and no error. Values stay raw:
//! the rule that uses a value reports what is wrong with it.

use super::percent_decode;

/// The parameters that the code uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Parameter {
    Id,
    Sid,
    Ttl,
    Prefix,
    Limit,
    Cursor,
    Verbose,
}

/// How many parameters there are.
const COUNT: usize = 7;

impl Parameter {
    /// The parameter that a raw name means. Case matters.
    #[inline]
    fn of(raw: &[u8]) -> Option<Parameter> {
        match Parameter::named(raw) {
            // None of these names has a space in it, so a `+` cannot stand for one.
            None if raw.contains(&b'%') => Parameter::named(&percent_decode(raw, false)?),
            known_or_not => known_or_not,
        }
    }

    #[inline]
    fn named(name: &[u8]) -> Option<Parameter> {
        match name {
            b"id" => Some(Parameter::Id),
            b"sid" => Some(Parameter::Sid),
            b"ttl" => Some(Parameter::Ttl),
            b"prefix" => Some(Parameter::Prefix),
            b"limit" => Some(Parameter::Limit),
            b"cursor" => Some(Parameter::Cursor),
            b"verbose" => Some(Parameter::Verbose),
            _ => None,
        }
    }
}

/// Where the parameters are in a query.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Parameters {
    /// Where the first value of each begins; 0 when it is absent, since a name precedes any value.
    values: [u32; COUNT],
    /// Those that occur more than once, as bits.
    repeated: u8,
}

impl Parameters {
    /// Scans a raw query, which is no longer than a head may be.
    pub fn find(&mut self, raw: &[u8]) {
        let mut at = 0;
        while at < raw.len() {
            let name_len = length_before(&raw[at..], |b| matches!(b, b'=' | b'&'));
            let end = at + name_len;
            let value = end + usize::from(raw.get(end) == Some(&b'='));
            if let Some(parameter) = Parameter::of(&raw[at..end]) {
                let first = &mut self.values[parameter as usize];
                if *first == 0 {
                    *first = value as u32;
                } else {
                    self.repeated |= 1 << parameter as u8;
                }
            }
            at = value + length_before(&raw[value..], |b| b == b'&') + 1;
        }
    }
}

/// A query: its bytes, and which of the known parameters it has.
#[derive(Debug, Clone, Copy)]
pub struct Query<'a> {
    raw: &'a [u8],
    parameters: Parameters,
}

impl<'a> Query<'a> {
    /// Scans `raw`, the bytes after the `?`.
    pub fn of(raw: &'a [u8]) -> Query<'a> {
        let mut parameters = Parameters::default();
        parameters.find(raw);
        Query { raw, parameters }
    }

    /// Joins a query with the result of a scan made before.
    pub(super) fn new(raw: &'a [u8], parameters: Parameters) -> Query<'a> {
        Query { raw, parameters }
    }

    /// Whether a parameter is present.
    pub fn has(&self, parameter: Parameter) -> bool {
        self.parameters.values[parameter as usize] != 0
    }

    /// Whether a parameter occurs more than once.
    pub fn is_repeated(&self, parameter: Parameter) -> bool {
        self.parameters.repeated & 1 << parameter as u8 != 0
    }

    /// The first value of a parameter, raw: [`percent_decode`] it with `+` as a space. Empty without a `=`.
    pub fn first(&self, parameter: Parameter) -> Option<&'a [u8]> {
        let at = self.parameters.values[parameter as usize] as usize;
        let value = self.raw.get(at..).filter(|_| at > 0)?;
        Some(&value[..length_before(value, |b| b == b'&')])
    }
}

/// The number of bytes before the first for which `ends` is true.
#[inline]
fn length_before(bytes: &[u8], ends: impl Fn(u8) -> bool) -> usize {
    bytes.iter().position(|b| ends(*b)).unwrap_or(bytes.len())
}

#[cfg(test)]
mod tests {
    use super::Parameter::*;
    use super::*;

    #[test]
    fn finds_the_first_value_and_sees_a_second() {
        for (raw, parameter, first, is_repeated) in [
            ("id=7", Id, Some("7"), false),
            ("id=7&id=8", Id, Some("7"), true),
            ("id=7&id", Id, Some("7"), true),
            ("id=7&id=%", Id, Some("7"), true),
            ("id&id=7", Id, Some(""), true),
            ("&&x&id=c=d&", Id, Some("c=d"), false),
            ("id=a+b%2B", Id, Some("a+b%2B"), false),
            ("i%64=7", Id, Some("7"), false),
            ("%69%64=7&id=8", Id, Some("7"), true),
            ("verbose", Verbose, Some(""), false),
            ("v%65rb%6fse=", Verbose, Some(""), false),
            ("prefix=a&limit=5&cursor=6&ttl=1&sid=2", Limit, Some("5"), false),
            ("prefix=a&limit=5&cursor=6&ttl=1&sid=2", Sid, Some("2"), false),
            // Not a parameter name.
            ("", Id, None, false),
            ("=", Id, None, false),
            ("=id", Id, None, false),
            ("ID=7", Id, None, false),
            ("idd=7&i=7", Id, None, false),
            ("id%=7&id%4=7&%zz=7", Id, None, false),
            ("i%2564=7", Id, None, false),
            ("+id=7&id+=7", Id, None, false),
            ("x=id=7", Id, None, false),
        ] {
            let query = Query::of(raw.as_bytes());
            assert_eq!(query.first(parameter), first.map(str::as_bytes), "{raw}");
            assert_eq!(query.has(parameter), first.is_some(), "{raw}");
            assert_eq!(query.is_repeated(parameter), is_repeated, "{raw}");
        }
    }

    #[test]
    fn each_parameter_is_known_by_its_name() {
        let known = [Id, Sid, Ttl, Prefix, Limit, Cursor, Verbose];
        let names = ["id", "sid", "ttl", "prefix", "limit", "cursor", "verbose"];
        for (i, name) in names.into_iter().enumerate() {
            let query = Query::of(name.as_bytes());
            let found: Vec<_> = known.into_iter().filter(|known| query.has(*known)).collect();
            assert_eq!(found, [known[i]]);
        }
    }
}
