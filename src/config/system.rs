//! What the system gives this process: processors, memory, open files.
//!
//! Read once, at the start, and handed to [`Config::read`](super::Config::read) as values. A limit that cannot be read,
//! where there is no `/proc` say, counts as no limit.

use std::fs;
use std::path::{Component, Path};

/// See the module's text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct System {
    /// Processors that this process may use; affinity and quotas are counted.
    pub processors: usize,
    /// Files that it may have open (`ulimit -n`, the soft limit).
    pub files_max: Option<usize>,
    /// Files that it has open already.
    pub files_open: usize,
    /// Bytes of memory that its control group may use, and every group around that.
    pub memory_max: Option<usize>,
}

impl System {
    /// The present limits.
    pub fn look() -> System {
        System {
            processors: std::thread::available_parallelism().map_or(1, usize::from),
            files_max: text(Path::new("/proc/self/limits")).and_then(|t| files_max(&t)),
            files_open: files_open(),
            memory_max: text(Path::new("/proc/self/cgroup"))
                .and_then(|groups| memory_max(&groups, text)),
        }
    }
}

fn text(path: &Path) -> Option<String> {
    fs::read_to_string(path).ok()
}

/// `Max open files            1024                 4096                 files`, or `unlimited`.
fn files_max(limits: &str) -> Option<usize> {
    let mut lines = limits.lines();
    let numbers = lines.find_map(|line| line.strip_prefix("Max open files"))?;
    numbers.split_whitespace().next()?.parse().ok()
}

fn files_open() -> usize {
    const STANDARD_STREAMS: usize = 3;
    // One of them is the directory that is being read.
    fs::read_dir("/proc/self/fd").map_or(STANDARD_STREAMS, |all| all.count().saturating_sub(1))
}

/// The least of all limits on memory, by proc_pid_cgroup(5) and the kernel's cgroup-v1 and cgroup-v2:
///
/// ```text
/// 0::/kubepods/pod7/c3           ─▶ /sys/fs/cgroup/kubepods/pod7/c3/memory.max, and those above
/// 4:memory:/docker/c3            ─▶ /sys/fs/cgroup/memory/docker/c3/memory.limit_in_bytes, and so on
/// ```
///
/// In a container the path may be the host's, while the container's own group is the root of the mount: then the walk
/// upwards ends at that root. A group without a limit says `max`, or a number too large to mean anything.
fn memory_max(groups: &str, read: impl Fn(&Path) -> Option<String>) -> Option<usize> {
    let mut least = None;
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(group)) = (fields.next(), fields.next()) else {
            continue;
        };
        let (mounts, file): (&[&str], _) = if controllers.is_empty() {
            let mounts = &["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];
            (mounts, "memory.max")
        } else if controllers.split(',').any(|c| c == "memory") {
            (&["/sys/fs/cgroup/memory"], "memory.limit_in_bytes")
        } else {
            continue;
        };
        // `/..` begins the path of a group outside the visible part of the tree.
        let is_name = |c: &Component| matches!(c, Component::Normal(_));
        let group = Path::new(group).components().filter(is_name).collect::<std::path::PathBuf>();
        for mount in mounts {
            for ancestor in group.ancestors() {
                let limit = read(&Path::new(mount).join(ancestor).join(file));
                let limit = limit.and_then(|text| text.trim().parse().ok());
                least = [least, limit].into_iter().flatten().min();
            }
        }
    }
    least
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_on_open_files_is_found() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units     \n\
            Max open files            1024                 524288               files     \n";
        assert_eq!(files_max(limits), Some(1024));
        assert_eq!(files_max(&limits.replace("1024 ", "unlimited ")), None);
        assert_eq!(files_max(""), None);
    }

    #[test]
    fn the_least_memory_limit_of_the_group_and_those_around_it_counts() {
        let limit = |groups: &str, files: &[(&str, &str)]| {
            memory_max(groups, |path| {
                let mut files = files.iter();
                let found = files.find(|(name, _)| Path::new(name) == path);
                found.map(|(_, text)| format!("{text}\n"))
            })
        };
        let v2 = |files| limit("0::/pods/7\n", files);
        assert_eq!(v2(&[]), None);
        assert_eq!(v2(&[("/sys/fs/cgroup/pods/7/memory.max", "max")]), None);
        assert_eq!(v2(&[("/sys/fs/cgroup/pods/7/memory.max", "64")]), Some(64));
        let both = [
            ("/sys/fs/cgroup/pods/7/memory.max", "64"),
            ("/sys/fs/cgroup/pods/memory.max", "32"),
            ("/sys/fs/cgroup/pods/8/memory.max", "16"),
        ];
        assert_eq!(v2(&both), Some(32));
        // The group of a container is the root of the tree that it sees, whichever path it has.
        let root = [("/sys/fs/cgroup/memory.max", "64")];
        for groups in ["0::/\n", "0::/pods/7\n", "0::/../7\n", "0::/../../sys\n"] {
            assert_eq!(limit(groups, &root), Some(64), "{groups}");
        }
        let v1 = "5:cpu,cpuacct:/d/7\n4:memory:/d/7\n1:name=systemd:/\n0::/\n";
        let name = "memory.limit_in_bytes";
        let own = format!("/sys/fs/cgroup/memory/d/7/{name}");
        assert_eq!(limit(v1, &[(&own, "64")]), Some(64));
        assert_eq!(limit(v1, &[(&format!("/sys/fs/cgroup/memory/{name}"), "64")]), Some(64));
        assert_eq!(limit(v1, &[(&format!("/sys/fs/cgroup/cpu/d/7/{name}"), "64")]), None);
        assert_eq!(limit(v1, &[(&own, "64"), root[0]]), Some(64));
        // A path with a colon in it, and lines that are none.
        assert_eq!(limit("0::/a:b\n\nx\n", &[("/sys/fs/cgroup/a:b/memory.max", "64")]), Some(64));
        let none = u64::MAX >> 1 & !4095;
        assert_eq!(limit(v1, &[(&own, &none.to_string())]), usize::try_from(none).ok());
    }
}
