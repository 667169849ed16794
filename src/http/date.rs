//! Dates as HTTP prints them: `Sun, 06 Nov 1994 08:49:37 GMT`, IMF-fixdate (RFC 9110 §5.6.7).
//!
//! The time is an argument; the caller has the clock. Printing walks the calendar year by year, some sixty steps, which
//! is easier to verify than the arithmetic that avoids them and costs nothing behind `DateCache`: it prints once a
//! second, however many responses that second has.

/// 9999-12-31 23:59:59, the last second with a four-digit year.
const LAST_SECOND: u64 = 253_402_300_799;

/// A date as a field has it, 29 bytes.
pub type Date = [u8; 29];

/// Prints a moment; one after the year 9999 is printed as its last second.
pub fn http_date(unix_seconds: u64) -> String {
    const WEEKDAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let (days, seconds) = {
        let moment = unix_seconds.min(LAST_SECOND);
        (moment / 86_400, moment % 86_400)
    };
    // 1970-01-01 was a Thursday.
    let weekday = WEEKDAYS[(days % 7) as usize];

    let (mut year, mut day) = (1970, days);
    while day >= days_in_year(year) {
        day -= days_in_year(year);
        year += 1;
    }
    let mut month = 0;
    while day >= days_in_month(year, month) {
        day -= days_in_month(year, month);
        month += 1;
    }

    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let (day, month) = (day + 1, MONTHS[month]);
    format!("{weekday}, {day:02} {month} {year} {hour:02}:{minute:02}:{second:02} GMT")
}

fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

fn days_in_year(year: u64) -> u64 {
    if is_leap(year) { 366 } else { 365 }
}

/// `month` counts from 0.
fn days_in_month(year: u64, month: usize) -> u64 {
    const DAYS: [u64; 12] = [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    DAYS[month] + u64::from(month == 1 && is_leap(year))
}

/// The date of the most recent second, printed once.
#[derive(Debug)]
pub struct DateCache {
    second: u64,
    printed: Date,
}

impl Default for DateCache {
    fn default() -> DateCache {
        DateCache { second: 0, printed: *b"Thu, 01 Jan 1970 00:00:00 GMT" }
    }
}

impl DateCache {
    /// The date at `unix_seconds`; printed anew only when the second changed.
    pub fn at(&mut self, unix_seconds: u64) -> &Date {
        if self.second != unix_seconds {
            self.second = unix_seconds;
            self.printed.copy_from_slice(http_date(unix_seconds).as_bytes());
        }
        &self.printed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_imf_fixdate() {
        for (unix_seconds, date) in [
            (0, "Thu, 01 Jan 1970 00:00:00 GMT"),
            (68_169_599, "Mon, 28 Feb 1972 23:59:59 GMT"),
            (68_169_600, "Tue, 29 Feb 1972 00:00:00 GMT"),
            (784_111_777, "Sun, 06 Nov 1994 08:49:37 GMT"),
            (951_782_400, "Tue, 29 Feb 2000 00:00:00 GMT"),
            (951_868_800, "Wed, 01 Mar 2000 00:00:00 GMT"),
            (978_307_199, "Sun, 31 Dec 2000 23:59:59 GMT"),
            (1_709_164_800, "Thu, 29 Feb 2024 00:00:00 GMT"),
            (4_107_542_399, "Sun, 28 Feb 2100 23:59:59 GMT"),
            (4_107_542_400, "Mon, 01 Mar 2100 00:00:00 GMT"),
            (LAST_SECOND, "Fri, 31 Dec 9999 23:59:59 GMT"),
            (LAST_SECOND + 1, "Fri, 31 Dec 9999 23:59:59 GMT"),
            (u64::MAX, "Fri, 31 Dec 9999 23:59:59 GMT"),
        ] {
            assert_eq!(http_date(unix_seconds), date);
        }
    }

    #[test]
    fn the_cache_follows_the_clock_both_ways() {
        let mut cache = DateCache::default();
        for unix_seconds in [0, 784_111_777, 784_111_777, 784_111_778, 784_111_777] {
            assert_eq!(cache.at(unix_seconds), http_date(unix_seconds).as_bytes());
        }
    }
}
