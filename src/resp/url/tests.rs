//! Each form as it may be written and as it may not, side by side.

use super::*;
use crate::resp::codec::Protocol;
use std::time::Duration;

/// Parses, and checks on the way that what is shown can be read again and shows the same.
#[track_caller]
fn parse(url: &str) -> RedisUrl {
    let parsed = RedisUrl::parse(url).unwrap_or_else(|error| panic!("{url}: {error}"));
    let shown = parsed.to_string();
    let again = RedisUrl::parse(&shown).unwrap_or_else(|error| panic!("{shown}: {error}"));
    assert_eq!(again.to_string(), shown);
    assert_eq!((again.database, again.tls), (parsed.database, parsed.tls));
    assert_eq!(again.credentials.user, parsed.credentials.user);
    parsed
}

#[test]
fn reads_every_form_and_shows_it_without_the_password() {
    let long_path = format!("unix:///{}", "s".repeat(106));
    for (url, shown) in [
        ("redis://redis", "redis://redis:6379/0"),
        ("redis://redis/", "redis://redis:6379/0"),
        ("REDIS://redis:7000/15", "redis://redis:7000/15"),
        ("redis://redis/65535", "redis://redis:6379/65535"),
        ("redis://[::1]:7000/1", "redis://[::1]:7000/1"),
        ("redis://:sesame@redis", "redis://:***@redis:6379/0"),
        ("redis://kiosk:sesame@redis:1/2", "redis://kiosk:***@redis:1/2"),
        ("redis://kiosk@redis", "redis://kiosk@redis:6379/0"),
        ("redis://a%40b%3a:sesame@redis", "redis://a%40b%3A:***@redis:6379/0"),
        ("rediss://redis", "rediss://redis:6379/0"),
        ("unix:///run/redis.sock", "unix:///run/redis.sock"),
        ("unix:///run/a@b:c%41.sock", "unix:///run/a@b:c%41.sock"),
        ("unix://kiosk:sesame@/run/redis.sock?db=3", "unix://kiosk:***@/run/redis.sock?db=3"),
        ("redis+unix:///run/redis.sock", "unix:///run/redis.sock"),
        (&long_path, &long_path),
        ("redis+sentinel://s1/kiosk", "redis+sentinel://s1:26379/kiosk/0"),
        (
            "redis+sentinel://u:sesame@s1,s2:7000,[::1]/kiosk.m-1_a/3",
            "redis+sentinel://u:***@s1:26379,s2:7000,[::1]:26379/kiosk.m-1_a/3",
        ),
        ("rediss+sentinel://s1/kiosk/", "rediss+sentinel://s1:26379/kiosk/0"),
        ("redis+cluster://n1", "redis+cluster://n1:6379"),
        ("redis+cluster://:sesame@n1,n2:7000/", "redis+cluster://:***@n1:6379,n2:7000"),
        ("rediss+cluster://n1,n2", "rediss+cluster://n1:6379,n2:6379"),
    ] {
        let parsed = parse(url);
        assert_eq!(parsed.to_string(), shown);
        assert_eq!(parsed.tls, url.starts_with("rediss"));
        assert!(!format!("{parsed:?}").contains("sesame"), "{parsed:?}");
    }
}

#[test]
fn refuses_what_is_no_url() {
    use UrlError::*;
    let long_path = format!("unix:///{}", "s".repeat(107));
    for (url, error) in [
        ("", Scheme),
        ("redis", Scheme),
        ("redis:6379", Scheme),
        ("http://redis", Scheme),
        ("redis+socket:///run/redis.sock", Scheme),
        ("rediss+unix:///run/redis.sock", Scheme),
        ("redis://", EmptyHost),
        ("redis:///0", EmptyHost),
        ("redis://:6379", EmptyHost),
        ("redis://u:p@", EmptyHost),
        ("redis://redis:0", Port { host: "redis".into() }),
        ("redis://0.0.0.0", Unspecified { host: "0.0.0.0".into() }),
        ("redis://[::]", Unspecified { host: "::".into() }),
        ("redis://::1", Ipv6),
        ("redis://a,b", SeveralHosts),
        ("redis://redis/65536", Database),
        ("redis://redis/-1", Database),
        ("redis://redis/+1", Database),
        ("redis://redis/x", Database),
        ("redis://redis/0/", Path),
        ("redis://redis#x", Fragment),
        ("redis://redis/0#", Fragment),
        (" redis://redis", Character),
        ("redis://redis\n", Character),
        ("redis://redis/\0", Character),
        ("redis://u:pässword@redis", Character),
        ("unix://run/redis.sock", SocketPath),
        ("unix://", SocketPath),
        ("unix:///", SocketPath),
        ("unix:///run/", SocketPath),
        ("unix://u:p@run/redis.sock", SocketPath),
        (&long_path, SocketPath),
        ("redis+sentinel://s1", SentinelName),
        ("redis+sentinel://s1/", SentinelName),
        ("redis+sentinel://s1//0", SentinelName),
        ("redis+sentinel://s1/a b", Character),
        ("redis+sentinel://s1/a%20b", SentinelName),
        ("redis+sentinel://s1/kiosk/65536", Database),
        ("redis+sentinel://s1/kiosk/0/", Path),
        ("redis+sentinel:///kiosk", EmptyHost),
        ("redis+sentinel://s1,,s2/kiosk", EmptyHost),
        ("redis+cluster://n1,", EmptyHost),
        ("redis+cluster://n1/0", ClusterDatabase),
        ("redis+cluster://n1/1", ClusterDatabase),
    ] {
        assert_eq!(RedisUrl::parse(url), Err(error), "{url}");
    }
}

#[test]
fn decodes_user_and_password_and_nothing_else() {
    let of = |url: &str| {
        let Credentials { user, password } = parse(url).credentials;
        (user, password.map(|password| password.expose().to_owned()))
    };
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(of("redis://h"), (None, None));
    assert_eq!(of("redis://:p@h"), (None, some("p")));
    assert_eq!(of("redis://u:p@h"), (some("u"), some("p")));
    assert_eq!(
        of("redis://u%2fv:%40%2F%3A%3f%23%25%00+~!$&'()*,;=@h"),
        (some("u/v"), some("@/:?#%\0+~!$&'()*,;="))
    );
    assert_eq!(of("redis://%c3%bc:%E2%82%AC@h"), (some("ü"), some("€")));

    for (userinfo, error) in [
        ("", UrlError::EmptyCredential),
        (":", UrlError::EmptyCredential),
        ("u:", UrlError::EmptyCredential),
        ("u:%", UrlError::Escape),
        ("u:%4", UrlError::Escape),
        ("u:%4g", UrlError::Escape),
        ("u:%+4", UrlError::Escape),
        ("u:%ff", UrlError::Escape),
        ("u%0a:p", UrlError::Escape),
        ("u:p@q", UrlError::RawDelimiter),
        ("u:p/q", UrlError::RawDelimiter),
        ("u:p:q", UrlError::RawDelimiter),
        ("u:p?q", UrlError::RawDelimiter),
        ("u:p#q", UrlError::Fragment),
    ] {
        for url in [format!("redis://{userinfo}@h"), format!("unix://{userinfo}@/run/s")] {
            assert_eq!(RedisUrl::parse(&url), Err(error.clone()), "{url}");
        }
    }
}

// A password with a raw delimiter must not be taken for a host, a port, a path or an option, and
// then be shown as one.
#[test]
fn errors_never_show_the_password() {
    for delimiter in ["@", "/", ":", "?", "#", "%", ",", "[", "]", "&", "=", " ", "ü", "://", "//"]
    {
        for password in [format!("sesame{delimiter}open"), format!("{delimiter}sesame{delimiter}")]
        {
            for rest in ["h", "h:x", "0.0.0.0", "h/x", "h/0?no=1", "h?db=1", "/run/", "a,b/n?x"] {
                for scheme in ["redis", "unix", "redis+sentinel", "redis+cluster", "http"] {
                    for user in ["", "u"] {
                        let url = format!("{scheme}://{user}:{password}@{rest}");
                        let shown = match RedisUrl::parse(&url) {
                            Ok(parsed) => format!("{parsed} {parsed:?}"),
                            Err(error) => format!("{error} {error:?}"),
                        };
                        assert!(
                            !shown.contains("sesame") && !shown.contains("open"),
                            "{url}: {shown}"
                        );
                        if let Err(error) = RedisUrl::from_addr(&url) {
                            assert!(!format!("{error} {error:?}").contains("sesame"));
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn reads_the_options() {
    let all = "timeout=1500ms&connect_timeout=2s&protocol=3&client_name=kiosk-1";
    for place in
        ["redis://h", "redis://h/0", "unix:///s", "redis+sentinel://h/n", "redis+cluster://h"]
    {
        let options = parse(&format!("{place}?{all}")).options;
        assert_eq!(options.timeout, Some(Duration::from_millis(1500)));
        assert_eq!(options.connect_timeout, Some(Duration::from_secs(2)));
        assert_eq!(options.protocol, Some(Protocol::Resp3));
        assert_eq!(options.client_name.as_deref(), Some("kiosk-1"));
        assert_eq!(parse(place).options, Options::default());
    }
    assert_eq!(parse("redis://h?protocol=2").options.protocol, Some(Protocol::Resp2));
    assert_eq!(parse("redis://h?timeout=1ms").options.timeout, Some(Duration::from_millis(1)));
    assert_eq!(parse("redis://h?timeout=10m").options.timeout, Some(Duration::from_secs(600)));

    let url = parse("redis+sentinel://s/n?sentinel_user=w&sentinel_password_file=/run/secrets/s");
    let Topology::Sentinel { user, password_file, .. } = url.topology else { panic!() };
    assert_eq!(user.as_deref(), Some("w"));
    assert_eq!(password_file, Some("/run/secrets/s".into()));
}

#[test]
fn refuses_options_that_are_unknown_repeated_or_wrong() {
    let unknown = |name: &str| UrlError::UnknownOption { name: name.into() };
    let repeated = |name| UrlError::RepeatedOption { name };
    for (url, error) in [
        ("redis://h?", unknown("")),
        ("redis://h?Timeout=1s", unknown("Timeout")),
        ("redis://h?timeout=1s&", unknown("")),
        ("redis://h?connections=2", unknown("connections")),
        ("redis://h?max_value=2", unknown("max_value")),
        ("redis://h?password=x", unknown("password")),
        ("redis://h?db=1", unknown("db")),
        ("redis+cluster://h?db=1", unknown("db")),
        ("redis://h?sentinel_user=x", unknown("sentinel_user")),
        ("redis+cluster://h?sentinel_password_file=x", unknown("sentinel_password_file")),
        ("redis://h?timeout=1s&timeout=1s", repeated("timeout")),
        ("redis://h?protocol=2&timeout=1s&protocol=3", repeated("protocol")),
        ("unix:///s?db=1&db=1", repeated("db")),
        ("unix:///s?db=65536", UrlError::Database),
        ("unix:///s?db=", UrlError::Database),
        ("redis+sentinel://s/n?sentinel_user=w", UrlError::SentinelPassword),
    ] {
        assert_eq!(RedisUrl::parse(url), Err(error), "{url}");
    }
    let long_name = format!("client_name={}", "n".repeat(65));
    for option in [
        "timeout",
        "timeout=",
        "timeout=1",
        "timeout=0s",
        "timeout=1h",
        "timeout=-1s",
        "timeout=+1s",
        "timeout=1.5s",
        "timeout=s",
        "timeout=1sms",
        "timeout=601s",
        "timeout=600001ms",
        "timeout=4294967296ms",
        "timeout=11m",
        "connect_timeout=2",
        "protocol=1",
        "protocol=4",
        "protocol=",
        "client_name=",
        &long_name,
    ] {
        let error = RedisUrl::parse(&format!("redis://h?{option}")).unwrap_err();
        let name = option.split('=').next().unwrap();
        assert!(error.to_string().contains(&format!("option `{name}` must be")), "{error}");
    }
}

#[test]
fn takes_64_seeds_and_4096_bytes() {
    let seeds = |n: usize| vec!["h"; n].join(",");
    for (n, taken) in [(63, true), (64, true), (65, false)] {
        for url in
            [format!("redis+cluster://{}", seeds(n)), format!("redis+sentinel://{}/n", seeds(n))]
        {
            assert_eq!(RedisUrl::parse(&url).is_ok(), taken, "{n}");
        }
    }
    for (n, taken) in [(4095, true), (4096, true), (4097, false)] {
        let url = format!("redis://:{}@h", "p".repeat(n - "redis://:@h".len()));
        assert_eq!(url.len(), n);
        assert_eq!(RedisUrl::parse(&url).is_ok(), taken, "{n}");
    }
}

#[test]
fn reads_a_bare_address() {
    for (addr, shown) in [
        ("redis:6379", "redis://redis:6379/0"),
        ("redis", "redis://redis:6379/0"),
        ("10.0.0.7:7000", "redis://10.0.0.7:7000/0"),
        ("[::1]:7000", "redis://[::1]:7000/0"),
        ("[::1]", "redis://[::1]:6379/0"),
    ] {
        let parsed = RedisUrl::from_addr(addr).unwrap();
        assert_eq!(parsed, RedisUrl::parse(shown).unwrap());
    }
    for (addr, error) in [
        ("", UrlError::EmptyHost),
        ("::1", UrlError::Ipv6),
        ("a:1,b:2", UrlError::SeveralHosts),
        ("redis://redis:6379", UrlError::UrlAsAddress),
        ("tcp://10.0.0.1:6379", UrlError::UrlAsAddress),
        ("kiosk:sesame@redis:6379", UrlError::UrlAsAddress),
        ("redis:6379/0", UrlError::UrlAsAddress),
        ("redis:6379 ", UrlError::Character),
        ("redis:0", UrlError::Port { host: "redis".into() }),
        ("0.0.0.0:6379", UrlError::Unspecified { host: "0.0.0.0".into() }),
        ("redis:6379?db=1", UrlError::Port { host: "redis".into() }),
    ] {
        assert_eq!(RedisUrl::from_addr(addr), Err(error), "{addr}");
    }
}
