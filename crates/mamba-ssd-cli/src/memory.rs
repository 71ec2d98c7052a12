//! Memory of this process and this machine, as Linux tells it; elsewhere nothing is known.

use std::fs;

/// Most bytes that this process has held.
pub fn peak() -> Option<usize> {
    field(&fs::read_to_string("/proc/self/status").ok()?, "VmHWM:")
}

/// Bytes that this program may still take: what the machine has left, or its control group.
pub fn available() -> Option<usize> {
    let machine = field(&fs::read_to_string("/proc/meminfo").ok()?, "MemAvailable:")?;
    Some(left_in_group().map_or(machine, |group| group.min(machine)))
}

/// What the control group of a container (version 2, as it is mounted there) leaves of its limit. Pages of files count as
/// left: they go when memory is wanted.
fn left_in_group() -> Option<usize> {
    let file = |name: &str| fs::read_to_string(format!("/sys/fs/cgroup/{name}")).ok();
    let bytes = |name: &str| -> Option<usize> { file(name)?.trim().parse().ok() };
    let stat = file("memory.stat")?;
    let of_files =
        stat.lines().find_map(|line| line.strip_prefix("inactive_file ")?.trim().parse::<usize>().ok());
    let taken = bytes("memory.current")?.saturating_sub(of_files.unwrap_or(0));
    Some(bytes("memory.max")?.saturating_sub(taken))
}

/// A number of kilobytes behind a name, in bytes.
fn field(text: &str, name: &str) -> Option<usize> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kilobytes: usize = line.split_whitespace().next()?.parse().ok()?;
    Some(1024 * kilobytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_a_number_of_kilobytes() {
        let text = "MemTotal:       16 kB\nMemAvailable:    9 kB\n";
        assert_eq!(field(text, "MemAvailable:"), Some(9 * 1024));
        assert_eq!(field(text, "VmHWM:"), None);
    }
}
