//! How much memory the rows may take before the system has to drop some of them again.
//!
//! The rules are those of `python/gdig/model/free_memory.py`, and so are the cases of the tests. `ulimit -v` does not
//! count here: it limits what a process maps, and rows in the page cache need not be mapped.

use std::fs;
use std::path::{Component, Path};

/// A limit of a control group from here on is none: version 1 writes the largest multiple of a page for "no limit".
const NO_LIMIT: u64 = 1 << 60;

/// The files of a control group, and what its `memory.stat` calls inactive, active and mapped pages of files.
struct Names {
    limit: &'static str,
    used: &'static str,
    in_stat: [&'static str; 3],
}

const VERSION_1: Names = Names {
    limit: "memory.limit_in_bytes",
    used: "memory.usage_in_bytes",
    in_stat: ["total_inactive_file", "total_active_file", "total_mapped_file"],
};

const VERSION_2: Names =
    Names { limit: "memory.max", used: "memory.current", in_stat: ["inactive_file", "active_file", "file_mapped"] };

/// The bytes that the system can give, its page cache included, within the limits of all control groups of this
/// process; `None` where none of them is told.
pub fn free_memory() -> Option<u64> {
    free_below(Path::new("/"))
}

/// The same for the /proc and /sys of `root`.
fn free_below(root: &Path) -> Option<u64> {
    let system = text(&root.join("proc/meminfo")).and_then(|text| value(&text, "MemAvailable:"));
    let system = system.and_then(|kilobytes| kilobytes.checked_mul(1024));
    [system, least_of_groups(root)].into_iter().flatten().min()
}

/// The least that a control group of this process has left, in version 1 or 2 and up to the root of the tree.
fn least_of_groups(root: &Path) -> Option<u64> {
    let groups = text(&root.join("proc/self/cgroup"))?;
    let mut least = None;
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let (mounts, names): (&[&str], _) = if controllers.is_empty() {
            (&["sys/fs/cgroup", "sys/fs/cgroup/unified"], VERSION_2)
        } else if controllers.split(',').any(|controller| controller == "memory") {
            (&["sys/fs/cgroup/memory"], VERSION_1)
        } else {
            continue;
        };
        for mount in mounts {
            // Inside a container the path can be that of the host, which is not there. Then the mount's root remains.
            let mut group = root.join(mount);
            least = least.into_iter().chain(left_in(&group, &names)).min();
            for folder in Path::new(path).components().filter(|part| matches!(part, Component::Normal(_))) {
                group.push(folder);
                least = least.into_iter().chain(left_in(&group, &names)).min();
            }
        }
    }
    least
}

/// What a group has left below its limit. Cached pages of files count as left, but for those that a process has mapped,
/// such as its libraries: the kernel drops the others first.
fn left_in(group: &Path, names: &Names) -> Option<u64> {
    // "max" where there is no limit.
    let number = |name| text(&group.join(name))?.trim().parse::<u64>().ok();
    let (limit, used) = (number(names.limit).filter(|&limit| limit < NO_LIMIT)?, number(names.used)?);
    let stat = text(&group.join("memory.stat")).unwrap_or_default();
    let [inactive, active, mapped] = names.in_stat.map(|name| value(&stat, name).unwrap_or(0));
    // Mapped pages may be on either list. Those on the inactive one were not used of late, and go first too.
    let cached = inactive.max(inactive.saturating_add(active).saturating_sub(mapped));
    Some(limit.saturating_add(cached).saturating_sub(used))
}

fn text(file: &Path) -> Option<String> {
    fs::read_to_string(file).ok()
}

/// The number of the line that begins with `key`.
fn value(text: &str, key: &str) -> Option<u64> {
    let mut words = text.lines().map(str::split_ascii_whitespace).find_map(|mut words| {
        let is_line = words.next() == Some(key);
        is_line.then_some(words)
    })?;
    words.next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_of_a_key_is_read() {
        let text = "MemTotal:  24000 kB\nMemAvailable:   12345 kB\nanon 77\nanon_thp 5\n";
        assert_eq!((value(text, "MemAvailable:"), value(text, "anon")), (Some(12_345), Some(77)));
        assert_eq!((value(text, "MemFree:"), value("anon max", "anon")), (None, None));
    }

    type Files = [(&'static str, &'static str)];

    fn free_of(files: &Files) -> Option<u64> {
        let root = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let file = root.path().join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        }
        free_below(root.path())
    }

    const AVAILABLE: (&str, &str) = ("proc/meminfo", "MemTotal: 9000 kB\nMemAvailable: 5000 kB\n");

    /// The cases of tests/test_memory_plan.py, and what is used beyond the limit.
    #[cfg(not(miri))]
    #[test]
    fn free_memory_is_the_least_of_all_limits() {
        assert_eq!(free_of(&[]), None);
        assert_eq!(free_of(&[AVAILABLE]), Some(5000 * 1024));
        let parent_of_version_2: &Files = &[
            AVAILABLE,
            ("proc/self/cgroup", "0::/user/job\n"),
            ("sys/fs/cgroup/user/job/memory.max", "max\n"),
            ("sys/fs/cgroup/user/job/memory.current", "100\n"),
            ("sys/fs/cgroup/user/memory.max", "3000000\n"),
            ("sys/fs/cgroup/user/memory.current", "1000000\n"),
            ("sys/fs/cgroup/user/memory.stat", "anon 5\ninactive_file 400000\nactive_file 300\nfile_mapped 100\n"),
        ];
        assert_eq!(free_of(parent_of_version_2), Some(2_400_200));
        // The path is the host's; inside the container the group is the mount's root.
        let container_of_version_1: &Files = &[
            AVAILABLE,
            ("proc/self/cgroup", "4:cpu,memory:/docker/abc\n1:cpuset:/\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "2000000\n"),
            ("sys/fs/cgroup/memory/memory.usage_in_bytes", "1500000\n"),
            (
                "sys/fs/cgroup/memory/memory.stat",
                "total_inactive_file 100000\ntotal_active_file 50000\ntotal_mapped_file 120000\n",
            ),
        ];
        assert_eq!(free_of(container_of_version_1), Some(600_000));
        let no_limit_of_version_1: &Files = &[
            AVAILABLE,
            ("proc/self/cgroup", "4:memory:/\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
            ("sys/fs/cgroup/memory/memory.usage_in_bytes", "1500000\n"),
        ];
        assert_eq!(free_of(no_limit_of_version_1), Some(5000 * 1024));
        let nested_in_version_1: &Files = &[
            ("proc/self/cgroup", "0::/\n4:memory:/../slurm/job\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
            ("sys/fs/cgroup/memory/memory.usage_in_bytes", "1500000\n"),
            ("sys/fs/cgroup/memory/slurm/job/memory.limit_in_bytes", "2000\n"),
            ("sys/fs/cgroup/memory/slurm/job/memory.usage_in_bytes", "3000\n"),
        ];
        assert_eq!(free_of(nested_in_version_1), Some(0));
    }

    #[cfg(all(target_os = "linux", not(miri)))]
    #[test]
    fn this_system_tells_its_memory() {
        assert!(free_memory().unwrap() > 0);
    }
}
