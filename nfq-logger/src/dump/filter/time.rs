//! Times as people write them.

use std::time::{Duration, SystemTime};

const SECONDS_A_DAY: u64 = 86_400;
const SECOND_NS: u64 = 1_000_000_000;

/// Nanoseconds since 1970 of a time of day (today, UTC), a date with time (RFC 3339), or so long before `now_ns`.
pub(super) fn parse_time(text: &str, now_ns: u64) -> Option<u64> {
    if let Some(ago) = text.strip_prefix('-') {
        let ago = humantime::parse_duration(ago).ok()?;
        return now_ns.checked_sub(u64::try_from(ago.as_nanos()).ok()?);
    }
    if text.contains('T') {
        let time = humantime::parse_rfc3339_weak(text).ok()?;
        return nanoseconds(time.duration_since(SystemTime::UNIX_EPOCH).ok()?);
    }
    let today = now_ns / SECOND_NS / SECONDS_A_DAY * SECONDS_A_DAY * SECOND_NS;
    today.checked_add(nanoseconds(time_of_day(text)?)?)
}

fn nanoseconds(time: Duration) -> Option<u64> {
    u64::try_from(time.as_nanos()).ok()
}

/// `HH:MM` or `HH:MM:SS` with or without a fraction.
fn time_of_day(text: &str) -> Option<Duration> {
    let mut parts = text.split(':');
    let hours = whole(parts.next()?, 23)?;
    let minutes = whole(parts.next()?, 59)?;
    let seconds = parts.next().map_or(Some(0.0), seconds)?;
    let whole_minutes = Duration::from_secs(hours * 3600 + minutes * 60);
    parts.next().is_none().then_some(whole_minutes + Duration::try_from_secs_f64(seconds).ok()?)
}

fn whole(text: &str, most: u64) -> Option<u64> {
    let digits = !text.is_empty() && text.len() <= 2 && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|number| digits && *number <= most)
}

fn seconds(text: &str) -> Option<f64> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    text.parse().ok().filter(|seconds| plain && *seconds < 60.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2001-09-09T01:46:40Z.
    const NOW: u64 = 1_000_000_000 * SECOND_NS;

    #[test]
    fn each_form_is_understood() {
        for (text, seconds) in [
            ("01:46:40", 1_000_000_000.0),
            ("01:46", 999_999_960.0),
            ("00:00:00.5", 999_993_600.5),
            ("2001-09-09T01:46:39Z", 999_999_999.0),
            ("-90s", 999_999_910.0),
            ("-1h30m", 999_994_600.0),
        ] {
            let found = parse_time(text, NOW).map(|time| time as f64 / 1e9);
            assert_eq!(found, Some(seconds), "{text}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for text in [
            "",
            "-",
            "25:00",
            "1:2:3:4",
            "12:60",
            "12:00:60",
            "12:00:-1",
            "12:00:1e1",
            "yesterday",
            "T",
            "-x",
        ] {
            assert_eq!(parse_time(text, NOW), None, "{text}");
        }
        assert_eq!(parse_time("-1h", 0), None);
    }
}
