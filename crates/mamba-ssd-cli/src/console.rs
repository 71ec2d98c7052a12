//! Standard output. Everything a person sees goes through [`say`]; logs go to standard error through `tracing`, what is
//! said about answers that a program may read through [`note`].

use std::fmt::Display;
use std::io::{self, Write};

/// Prints one line. A reader that went away (`mamba-ssd distill | head`) ends the talking, not the work.
pub fn say(line: impl Display) {
    print(format_args!("{line}\n"));
}

/// Prints a piece of a line; false once nobody reads any more.
pub fn print(text: impl Display) -> bool {
    let mut out = io::stdout().lock();
    write!(out, "{text}").and_then(|()| out.flush()).is_ok()
}

/// Prints one line on standard error: what is about the answers and not one of them.
pub fn note(line: impl Display) {
    let _ = writeln!(io::stderr().lock(), "{line}"); // nobody to tell if this fails
}

/// `12345678` as `12,345,678`.
pub fn thousands(count: usize) -> String {
    let digits = count.to_string();
    let head = digits.len() % 3;
    let mut grouped = digits[..head].to_string();
    for (index, digit) in digits[head..].chars().enumerate() {
        if index % 3 == 0 && !grouped.is_empty() {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// Seconds for a person: `42 s`, `3 min 20 s`, `2 h 05 min`.
pub fn duration(seconds: f64) -> String {
    let whole = seconds.round().max(0.0) as u64;
    match whole {
        0..60 if seconds < 10.0 => format!("{seconds:.1} s"),
        0..60 => format!("{whole} s"),
        60..3600 => format!("{} min {:02} s", whole / 60, whole % 60),
        _ => format!("{} h {:02} min", whole / 3600, whole / 60 % 60),
    }
}

/// A share in percent with one decimal.
pub fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

/// A share in percent, or a dash where nothing was measured.
pub fn percent_or_dash(share: Option<f64>) -> String {
    share.map_or("-".into(), percent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_grouped_by_three() {
        assert_eq!(thousands(7), "7");
        assert_eq!(thousands(123), "123");
        assert_eq!(thousands(1234), "1,234");
        assert_eq!(thousands(12_345_678), "12,345,678");
    }

    #[test]
    fn durations_use_the_unit_that_fits() {
        assert_eq!(duration(1.25), "1.2 s");
        assert_eq!(duration(59.4), "59 s");
        assert_eq!(duration(200.0), "3 min 20 s");
        assert_eq!(duration(7500.0), "2 h 05 min");
    }
}
