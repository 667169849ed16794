//! Each form as it may be written and as it may not, side by side.

use super::*;

const SCHEME: &str = "expected redis://, rediss://";
const EMPTY_HOST: &str = "a host is missing";
const IPV6: &str = "in brackets";
const SEVERAL_HOSTS: &str = "several hosts";
const DATABASE: &str = "from 0 to 65535";
const PATH: &str = "the path is longer";
const FRAGMENT: &str = "`#` has no meaning";
const CHARACTER: &str = "printable ASCII";
const SOCKET_PATH: &str = "at most 107 bytes";
const SENTINEL_NAME: &str = "after the sentinels, /name";
const CLUSTER_DATABASE: &str = "no databases";
const EMPTY_CREDENTIAL: &str = "nothing before `@`";
const ESCAPE: &str = "must begin a %XX";
const RAW_DELIMITER: &str = "write `@` as %40";
const URL_AS_ADDRESS: &str = "only host:port";
const SENTINEL_PASSWORD: &str = "needs sentinel_password_file";

fn read(url: &str) -> Result<RedisUrl, String> {
    RedisUrl::parse(url, Options::default())
}

fn read_addr(addr: &str) -> Result<RedisUrl, String> {
    RedisUrl::from_addr(addr, Options::default())
}

#[track_caller]
fn parse(url: &str) -> RedisUrl {
    read(url).unwrap_or_else(|error| panic!("{url}: {error}"))
}

/// The parsed URL, in the form with nothing left out, and without the password.
fn shown(url: &RedisUrl) -> String {
    let tls = if url.tls { "s" } else { "" };
    let user = url.options.credentials.user.as_deref().unwrap_or_default();
    let who = match &url.options.credentials.password {
        Some(password) => format!("{user}:{password:?}@"),
        None if user.is_empty() => String::new(),
        None => format!("{user}@"),
    };
    let database = url.options.database;
    let join =
        |seeds: &[Endpoint]| seeds.iter().map(Endpoint::to_string).collect::<Vec<_>>().join(",");
    match &url.target {
        Target::Single(Endpoint::Unix(path)) => {
            let database = if database == 0 { String::new() } else { format!("?db={database}") };
            format!("unix://{who}{}{database}", path.display())
        }
        Target::Single(endpoint) => format!("redis{tls}://{who}{endpoint}/{database}"),
        Target::Sentinel { seeds, name, .. } => {
            format!("redis{tls}+sentinel://{who}{}/{name}/{database}", join(seeds))
        }
        Target::Cluster { seeds } => format!("redis{tls}+cluster://{who}{}", join(seeds)),
    }
}

#[track_caller]
fn assert_refused(read: Result<RedisUrl, String>, expected: &str, text: &str) {
    let error = read.expect_err(text);
    assert!(error.contains(expected), "{text}: {error}");
}

#[test]
fn reads_every_form_and_shows_no_password() {
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
        ("redis://a%40b%3a:sesame@redis", "redis://a@b::***@redis:6379/0"),
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
        assert_eq!(self::shown(&parsed), shown);
        assert_eq!(parsed.tls, url.starts_with("rediss"));
        assert!(!format!("{parsed:?}").contains("sesame"), "{parsed:?}");
    }
}

#[test]
fn refuses_what_is_no_url() {
    let long_path = format!("unix:///{}", "s".repeat(107));
    for (url, error) in [
        ("", SCHEME),
        ("redis", SCHEME),
        ("redis:6379", SCHEME),
        ("http://redis", SCHEME),
        ("redis+socket:///run/redis.sock", SCHEME),
        ("rediss+unix:///run/redis.sock", SCHEME),
        ("redis://", EMPTY_HOST),
        ("redis:///0", EMPTY_HOST),
        ("redis://:6379", EMPTY_HOST),
        ("redis://u:p@", EMPTY_HOST),
        ("redis://redis:0", "port of `redis`"),
        ("redis://0.0.0.0", "`0.0.0.0` is an address to listen on"),
        ("redis://[::]", "`::` is an address to listen on"),
        ("redis://::1", IPV6),
        ("redis://a,b", SEVERAL_HOSTS),
        ("redis://redis/65536", DATABASE),
        ("redis://redis/-1", DATABASE),
        ("redis://redis/+1", DATABASE),
        ("redis://redis/x", DATABASE),
        ("redis://redis/0/", PATH),
        ("redis://redis#x", FRAGMENT),
        ("redis://redis/0#", FRAGMENT),
        (" redis://redis", CHARACTER),
        ("redis://redis\n", CHARACTER),
        ("redis://redis/\0", CHARACTER),
        ("redis://u:pässword@redis", CHARACTER),
        ("unix://run/redis.sock", SOCKET_PATH),
        ("unix://", SOCKET_PATH),
        ("unix:///", SOCKET_PATH),
        ("unix:///run/", SOCKET_PATH),
        ("unix://u:p@run/redis.sock", SOCKET_PATH),
        (&long_path, SOCKET_PATH),
        ("redis+sentinel://s1", SENTINEL_NAME),
        ("redis+sentinel://s1/", SENTINEL_NAME),
        ("redis+sentinel://s1//0", SENTINEL_NAME),
        ("redis+sentinel://s1/a b", CHARACTER),
        ("redis+sentinel://s1/a%20b", SENTINEL_NAME),
        ("redis+sentinel://s1/kiosk/65536", DATABASE),
        ("redis+sentinel://s1/kiosk/0/", PATH),
        ("redis+sentinel:///kiosk", EMPTY_HOST),
        ("redis+sentinel://s1,,s2/kiosk", EMPTY_HOST),
        ("redis+cluster://n1,", EMPTY_HOST),
        ("redis+cluster://n1/0", CLUSTER_DATABASE),
        ("redis+cluster://n1/1", CLUSTER_DATABASE),
    ] {
        assert_refused(read(url), error, url);
    }
}

#[test]
fn decodes_user_and_password_and_nothing_else() {
    let of = |url: &str| {
        let Credentials { user, password } = parse(url).options.credentials;
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
        ("", EMPTY_CREDENTIAL),
        (":", EMPTY_CREDENTIAL),
        ("u:", EMPTY_CREDENTIAL),
        ("u:%", ESCAPE),
        ("u:%4", ESCAPE),
        ("u:%4g", ESCAPE),
        ("u:%+4", ESCAPE),
        ("u:%ff", ESCAPE),
        ("u%0a:p", ESCAPE),
        ("u:p@q", RAW_DELIMITER),
        ("u:p/q", RAW_DELIMITER),
        ("u:p:q", RAW_DELIMITER),
        ("u:p?q", RAW_DELIMITER),
        ("u:p#q", FRAGMENT),
    ] {
        for url in [format!("redis://{userinfo}@h"), format!("unix://{userinfo}@/run/s")] {
            assert_refused(read(&url), error, &url);
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
                        let shown = match read(&url) {
                            Ok(parsed) => format!("{parsed:?}"),
                            Err(error) => error,
                        };
                        assert!(
                            !shown.contains("sesame") && !shown.contains("open"),
                            "{url}: {shown}"
                        );
                        if let Err(error) = read_addr(&url) {
                            assert!(!error.contains("sesame"));
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn reads_the_options() {
    let all = "connect_timeout=1500ms&protocol=3&client_name=kiosk-1";
    for place in
        ["redis://h", "redis://h/0", "unix:///s", "redis+sentinel://h/n", "redis+cluster://h"]
    {
        let url = parse(&format!("{place}?{all}"));
        assert_eq!(url.options.connect_timeout, Duration::from_millis(1500));
        assert_eq!(url.options.protocol, Protocol::Resp3);
        assert_eq!(url.options.client_name, "kiosk-1");
        let without = parse(place).options;
        assert_eq!(format!("{without:?}"), format!("{:?}", Options::default()));
    }
    assert_eq!(parse("redis://h?protocol=2").options.protocol, Protocol::Resp2);
    for (text, ms) in [("1ms", 1), ("600000ms", 600_000), ("10m", 600_000)] {
        let url = parse(&format!("redis://h?connect_timeout={text}"));
        assert_eq!(url.options.connect_timeout, Duration::from_millis(ms));
    }

    let url = parse("redis+sentinel://s/n?sentinel_user=w&sentinel_password_file=/run/secrets/s");
    let Target::Sentinel { user, password_file, .. } = url.target else { panic!() };
    assert_eq!(user.as_deref(), Some("w"));
    assert_eq!(password_file, Some("/run/secrets/s".into()));
    for (url, tls) in [
        ("redis+sentinel://s/n", [false, false]),
        ("rediss+sentinel://s/n", [true, true]),
        ("rediss+sentinel://s/n?sentinel_tls=no", [true, false]),
        ("redis+sentinel://s/n?sentinel_tls=yes", [false, true]),
    ] {
        let url = parse(url);
        assert_eq!([url.tls, url.sentinel_tls], tls);
    }
}

#[test]
fn refuses_options_that_are_unknown_repeated_or_wrong() {
    let unknown = |name| format!("unknown option `{name}`");
    let repeated = |name| format!("option `{name}` is given twice");
    for (url, error) in [
        ("redis://h?", unknown("")),
        ("redis://h?Protocol=2", unknown("Protocol")),
        ("redis://h?protocol=2&", unknown("")),
        ("redis://h?connections=2", unknown("connections")),
        ("redis://h?max_value=2", unknown("max_value")),
        ("redis://h?password=x", unknown("password")),
        ("redis://h?db=1", unknown("db")),
        ("redis+cluster://h?db=1", unknown("db")),
        ("rediss://h?sentinel_tls=no", unknown("sentinel_tls")),
        (
            "redis+sentinel://h/n?sentinel_tls=1",
            "option `sentinel_tls` must be yes or no".to_owned(),
        ),
        ("redis://h?sentinel_user=x", unknown("sentinel_user")),
        ("redis+cluster://h?sentinel_password_file=x", unknown("sentinel_password_file")),
        ("redis://h?protocol=2&protocol=2", repeated("protocol")),
        ("redis://h?protocol=2&client_name=a&protocol=3", repeated("protocol")),
        ("unix:///s?db=1&db=1", repeated("db")),
        ("unix:///s?db=65536", DATABASE.into()),
        ("unix:///s?db=", DATABASE.into()),
        ("redis://h?timeout=1s", "set REQUEST_TIMEOUT instead".into()),
        (&format!("redis://h?{}", "x".repeat(33)), format!("`{}`", "x".repeat(32))),
        ("redis+sentinel://s/n?sentinel_user=w", SENTINEL_PASSWORD.into()),
    ] {
        assert_refused(read(url), &error, url);
    }
    let long_name = format!("client_name={}", "n".repeat(65));
    for option in [
        "connect_timeout",
        "connect_timeout=",
        "connect_timeout=1",
        "connect_timeout=0s",
        "connect_timeout=1h",
        "connect_timeout=-1s",
        "connect_timeout=+1s",
        "connect_timeout=1.5s",
        "connect_timeout=s",
        "connect_timeout=1sms",
        "connect_timeout=601s",
        "connect_timeout=600001ms",
        "connect_timeout=4294967296ms",
        "connect_timeout=11m",
        "protocol=1",
        "protocol=4",
        "protocol=",
        "client_name=",
        &long_name,
    ] {
        let error = read(&format!("redis://h?{option}")).unwrap_err();
        let name = option.split('=').next().unwrap();
        assert!(error.contains(&format!("option `{name}` must be")), "{error}");
    }
}

#[test]
fn takes_64_seeds_and_4096_bytes() {
    let seeds = |n: usize| vec!["h"; n].join(",");
    for (n, taken) in [(63, true), (64, true), (65, false)] {
        for url in
            [format!("redis+cluster://{}", seeds(n)), format!("redis+sentinel://{}/n", seeds(n))]
        {
            assert_eq!(read(&url).is_ok(), taken, "{n}");
        }
    }
    for (n, taken) in [(4095, true), (4096, true), (4097, false)] {
        let url = format!("redis://:{}@h", "p".repeat(n - "redis://:@h".len()));
        assert_eq!(url.len(), n);
        assert_eq!(read(&url).is_ok(), taken, "{n}");
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
        let parsed = read_addr(addr).unwrap();
        assert_eq!(self::shown(&parsed), shown);
    }
    for (addr, error) in [
        ("", EMPTY_HOST),
        ("::1", IPV6),
        ("a:1,b:2", SEVERAL_HOSTS),
        ("redis://redis:6379", URL_AS_ADDRESS),
        ("tcp://10.0.0.1:6379", URL_AS_ADDRESS),
        ("kiosk:sesame@redis:6379", URL_AS_ADDRESS),
        ("redis:6379/0", URL_AS_ADDRESS),
        ("redis:6379 ", CHARACTER),
        ("redis:0", "port of `redis`"),
        ("0.0.0.0:6379", "`0.0.0.0` is an address to listen on"),
        ("redis:6379?db=1", "port of `redis`"),
    ] {
        assert_refused(read_addr(addr), error, addr);
    }
}
