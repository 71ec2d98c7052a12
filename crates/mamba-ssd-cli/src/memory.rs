//! Memory of this process and this machine, as Linux tells it; elsewhere nothing is known.

use std::fs;

/// Most bytes that this process has held.
pub fn peak() -> Option<usize> {
    field(&fs::read_to_string("/proc/self/status").ok()?, "VmHWM:")
}

/// Bytes that programs may still take.
pub fn available() -> Option<usize> {
    field(&fs::read_to_string("/proc/meminfo").ok()?, "MemAvailable:")
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
