//! How much memory the rows may take before the system has to drop some of them again.

use std::fs;

/// The bytes that the system can give, its page cache included, within the limit of the process's group; `None` where
/// neither is told.
pub fn free_memory() -> Option<u64> {
    let system = fs::read_to_string("/proc/meminfo").ok().and_then(|text| value(&text, "MemAvailable:", 1024));
    [system, of_group()].into_iter().flatten().min()
}

/// What is left below the limit of the control group. Pages of files count as left, because the kernel drops them.
fn of_group() -> Option<u64> {
    let text = |name| fs::read_to_string(format!("/sys/fs/cgroup/{name}")).ok();
    // "max" where there is no limit.
    let limit: u64 = text("memory.max")?.trim().parse().ok()?;
    Some(limit.saturating_sub(value(&text("memory.stat")?, "anon", 1)?))
}

/// The number of the line that begins with `key`.
fn value(text: &str, key: &str, unit: u64) -> Option<u64> {
    let mut words = text.lines().map(str::split_ascii_whitespace).find_map(|mut words| {
        let is_line = words.next() == Some(key);
        is_line.then_some(words)
    })?;
    words.next()?.parse::<u64>().ok()?.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_of_a_key_is_read() {
        let text = "MemTotal:  24000 kB\nMemAvailable:   12345 kB\nanon 77\nanon_thp 5\n";
        assert_eq!(value(text, "MemAvailable:", 1024), Some(12_345 * 1024));
        assert_eq!(value(text, "anon", 1), Some(77));
        assert_eq!((value(text, "MemFree:", 1), value("anon max", "anon", 1)), (None, None));
    }

    #[cfg(all(target_os = "linux", not(miri)))]
    #[test]
    fn this_system_tells_its_memory() {
        assert!(free_memory().unwrap() > 0);
    }
}
