//! Whether a variable was set by the operator, or injected by Kubernetes.
//!
//! For each Service in its namespace a pod finds variables such as these, named after the Service; the
//! legacy links of Docker set those of the third line, too:
//!
//! ```text
//! REDIS_SERVICE_HOST=10.0.0.11   REDIS_SERVICE_PORT=6379   REDIS_SERVICE_PORT_MAIN=6379
//! REDIS_PORT=tcp://10.0.0.11:6379
//! REDIS_PORT_6379_TCP=tcp://10.0.0.11:6379   …_TCP_PROTO=tcp   …_TCP_PORT=6379   …_TCP_ADDR=10.0.0.11
//! ```

/// See the module's text.
pub(super) fn is_service_link(name: &str, value: &str) -> bool {
    let is_url = ["tcp://", "udp://", "sctp://"].iter().any(|scheme| value.starts_with(scheme));
    name.ends_with("_SERVICE_HOST")
        || name.ends_with("_SERVICE_PORT")
        // The name of a port may be anything; its value is a number.
        || name.contains("_SERVICE_PORT_")
            && !name.ends_with("_PASSWORD")
            && value.bytes().all(|byte| byte.is_ascii_digit())
        || name.ends_with("_PORT") && is_url
        || name.match_indices("_PORT_").any(|(at, word)| is_port(&name[at + word.len()..]))
}

/// `6379_TCP`, alone or followed by `_PROTO`, `_PORT` or `_ADDR`.
fn is_port(text: &str) -> bool {
    let mut words = text.split('_');
    let number = words.next().unwrap_or_default();
    number.parse::<u16>().is_ok()
        && words.next().is_some_and(|word| ["TCP", "UDP", "SCTP"].contains(&word))
        && words.next().is_none_or(|word| ["PROTO", "PORT", "ADDR"].contains(&word))
        && words.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_kubernetes_injects_is_known_and_all_else_is_not() {
        for (name, value, yes) in [
            ("REDIS_SERVICE_HOST", "10.0.0.11", true),
            ("REDIS_SERVICE_PORT", "6379", true),
            ("REDIS_SERVICE_PORT_MAIN", "6379", true),
            ("REDIS_PORT", "tcp://10.0.0.11:6379", true),
            ("REDIS_PORT_6379_TCP", "tcp://10.0.0.11:6379", true),
            ("REDIS_PORT_6379_TCP_PROTO", "tcp", true),
            ("REDIS_PORT_6379_TCP_PORT", "6379", true),
            ("REDIS_PORT_6379_TCP_ADDR", "10.0.0.11", true),
            ("REDIS_HA_PORT_26379_TCP_ADDR", "10.0.0.11", true),
            ("REDIS_MASTER_SERVICE_HOST", "10.0.0.11", true),
            ("REDIS_SERVICE_PORT_MAIN", "hunter2", false),
            ("REDIS_SERVICE_PORT_PASSWORD", "hunter2", false),
            ("REDIS_SERVICE_PORT_PASSWORD", "12345", false),
            ("REDIS_PORT", "6379", false),
            ("REDIS_HOST", "10.0.0.11", false),
            ("REDIS_ADR", "redis:6379", false),
            ("REDIS_PORT_6379", "10.0.0.11", false),
            ("REDIS_PORT_X_TCP", "10.0.0.11", false),
            ("REDIS_PORT_6379_TCP_ADDR_X", "10.0.0.11", false),
            ("REDIS_SERVICE", "10.0.0.11", false),
        ] {
            assert_eq!(is_service_link(name, value), yes, "{name}={value}");
        }
    }
}
