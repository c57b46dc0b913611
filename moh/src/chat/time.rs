//! Times, as people read them.

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;

/// In UTC to the second: `2026-11-23T21:05:09Z`.
pub(crate) fn utc(at_ms: u64) -> String {
    timestamp(at_ms).strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// The day in a time zone.
pub(crate) fn day(at_ms: u64, zone: &TimeZone) -> Date {
    zone.to_datetime(timestamp(at_ms)).date()
}

/// A day as a heading: `Monday, 23 November`, with the year where it is another one.
pub(crate) fn day_name(day: Date, today: Date) -> String {
    if day == today {
        return "Today".to_owned();
    }
    if day.tomorrow().is_ok_and(|next| next == today) {
        return "Yesterday".to_owned();
    }
    let format = if day.year() == today.year() {
        "%A, %-d %B"
    } else {
        "%A, %-d %B %Y"
    };
    day.strftime(format).to_string()
}

/// The time of the day: `21:05`.
pub(crate) fn clock(at_ms: u64, zone: &TimeZone) -> String {
    let there = zone.to_datetime(timestamp(at_ms));
    there.strftime("%H:%M").to_string()
}

/// Times come from others: what is out of range is the beginning of time.
fn timestamp(at_ms: u64) -> Timestamp {
    i64::try_from(at_ms)
        .ok()
        .and_then(|ms| Timestamp::from_millisecond(ms).ok())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-11-23T21:05:09Z.
    const AT_MS: u64 = 1_795_467_909_000;

    #[test]
    fn times_are_read_as_they_are_meant() {
        let zone = TimeZone::fixed(jiff::tz::offset(3));
        assert_eq!(utc(AT_MS), "2026-11-23T21:05:09Z");
        assert_eq!(clock(AT_MS, &zone), "00:05");
        assert_eq!(day(AT_MS, &zone).to_string(), "2026-11-24");
        assert_eq!(utc(u64::MAX), "1970-01-01T00:00:00Z");
    }

    #[test]
    fn days_are_called_as_people_call_them() {
        let today: Date = "2026-11-24".parse().unwrap();
        let name = |day: &str| day_name(day.parse().unwrap(), today);
        assert_eq!(name("2026-11-24"), "Today");
        assert_eq!(name("2026-11-23"), "Yesterday");
        assert_eq!(name("2026-11-02"), "Monday, 2 November");
        assert_eq!(name("2025-12-31"), "Wednesday, 31 December 2025");
    }
}
