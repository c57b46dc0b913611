//! Sizes, spans of time and numbers, as people read them.

/// A size: `532 B`, `2.2 kB`, `1.4 GB`.
pub(super) fn size(bytes: u64) -> String {
    const UNITS: [(u64, &str); 4] = [
        (1_000_000_000_000, "TB"),
        (1_000_000_000, "GB"),
        (1_000_000, "MB"),
        (1_000, "kB"),
    ];
    match UNITS.iter().find(|(unit, _)| bytes >= *unit) {
        Some((unit, name)) => format!("{}.{} {name}", bytes / unit, bytes % unit / (unit / 10)),
        None => format!("{bytes} B"),
    }
}

/// A span of time in its two largest units, the second where it matters: `40 s`, `3 min`,
/// `2 h 5 min`, `6 d 23 h`.
pub(super) fn span(ms: u64) -> String {
    let seconds = ms / 1000;
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    let two = |large: u64, unit: &str, small: u64, of: &str| match small {
        0 => format!("{large} {unit}"),
        small => format!("{large} {unit} {small} {of}"),
    };
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{minutes} min"),
        3600..86_400 => two(hours, "h", minutes % 60, "min"),
        _ => two(days, "d", hours % 24, "h"),
    }
}

/// How long ago something was: `3 s ago`.
pub(super) fn ago(at_ms: u64, now_ms: u64) -> String {
    format!("{} ago", span(now_ms.saturating_sub(at_ms)))
}

/// A number with its thousands apart: `12,345`.
pub(super) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A number of things: `1 delivery`, `12 deliveries`.
pub(super) fn number(many: u64, one: &str, more: &str) -> String {
    let what = if many == 1 { one } else { more };
    format!("{} {what}", count(many))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (bytes, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1_000, "1.0 kB"),
            (2_260, "2.2 kB"),
            (999_999, "999.9 kB"),
            (1_000_000, "1.0 MB"),
            (1 << 30, "1.0 GB"),
            (u64::MAX, "18446744.0 TB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn spans() {
        const MINUTE: u64 = 60_000;
        const HOUR: u64 = 60 * MINUTE;
        for (ms, text) in [
            (999, "0 s"),
            (59_999, "59 s"),
            (MINUTE, "1 min"),
            (HOUR - 1, "59 min"),
            (2 * HOUR, "2 h"),
            (2 * HOUR + 5 * MINUTE, "2 h 5 min"),
            (24 * HOUR - 1, "23 h 59 min"),
            (24 * HOUR, "1 d"),
            (7 * 24 * HOUR - MINUTE, "6 d 23 h"),
        ] {
            assert_eq!(span(ms), text);
        }
        assert_eq!(ago(5_000, 8_000), "3 s ago");
        assert_eq!(ago(8_000, 5_000), "0 s ago", "a clock was set back");
    }

    #[test]
    fn numbers() {
        assert_eq!(count(0), "0");
        assert_eq!(count(999), "999");
        assert_eq!(count(1_000), "1,000");
        assert_eq!(count(1_234_567), "1,234,567");
        assert_eq!(number(1, "delivery", "deliveries"), "1 delivery");
        assert_eq!(number(1_200, "delivery", "deliveries"), "1,200 deliveries");
    }
}
