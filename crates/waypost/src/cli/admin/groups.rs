//! `waypost groups`.

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use waypost_model::date::rfc3339;

use super::{ServerArgs, VhostArgs, VhostFilter};
use crate::cli::http::ApiPath;
use crate::cli::present::Format;
use crate::cli::time::span;
use crate::exit::Failure;

/// What can be done with consumer groups.
#[derive(Debug, Subcommand)]
pub enum Groups {
    /// List groups, with how far behind they are
    Ls {
        #[command(flatten)]
        filter: VhostFilter,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Show a group by partition
    Show {
        name: String,
        #[command(flatten)]
        vhost: VhostArgs,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Set a group without members somewhere else
    #[command(after_help = "Example: waypost groups reset billing --to-timestamp 2026-01-31T00:00:00Z --dry-run")]
    Reset(Box<ResetArgs>),
    /// Delete a group without members, with its offsets
    Delete {
        name: String,
        #[command(flatten)]
        vhost: VhostArgs,
        #[command(flatten)]
        server: ServerArgs,
    },
}

/// Arguments of `waypost groups reset`.
#[derive(Debug, Args)]
pub struct ResetArgs {
    name: String,
    #[command(flatten)]
    to: To,
    /// Only in this topic; all its partitions, also those where the group has not committed
    #[arg(long)]
    topic: Option<String>,
    /// Only in these partitions
    #[arg(long = "partition", value_name = "NUMBER")]
    partitions: Vec<u32>,
    /// Only tell where it would be
    #[arg(short = 'n', long)]
    dry_run: bool,
    #[command(flatten)]
    vhost: VhostArgs,
    #[command(flatten)]
    server: ServerArgs,
}

/// Where to.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct To {
    /// To the first record that is there
    #[arg(long)]
    to_earliest: bool,
    /// Behind the last record
    #[arg(long)]
    to_latest: bool,
    /// To this offset
    #[arg(long, value_name = "OFFSET")]
    to_offset: Option<u64>,
    /// To the first record of that time or later: milliseconds since 1970, or YYYY-MM-DDTHH:MM:SS[.mmm]Z
    #[arg(long, value_name = "TIME", value_parser = timestamp)]
    to_timestamp: Option<u64>,
    /// To the first record of so long ago: 500ms, 15s, 2m, 1h
    #[arg(long, value_name = "TIME", value_parser = span)]
    by_duration: Option<String>,
    /// So many records further, or back
    #[arg(long, value_name = "RECORDS", allow_hyphen_values = true)]
    shift_by: Option<i64>,
}

impl To {
    fn write(&self, body: &mut Value) {
        if self.to_earliest || self.to_latest {
            body["to"] = Value::from(if self.to_earliest { "earliest" } else { "latest" });
        }
        if let Some(offset) = self.to_offset {
            body["offset"] = Value::from(offset);
        }
        if let Some(ms) = self.to_timestamp {
            body["timestamp"] = Value::from(ms);
        }
        if let Some(duration) = &self.by_duration {
            body["by_duration"] = Value::from(duration.as_str());
        }
        if let Some(by) = self.shift_by {
            body["shift_by"] = Value::from(by);
        }
    }
}

/// Milliseconds since 1970 of a number of them, or of a date and time in UTC (RFC 3339).
fn timestamp(text: &str) -> Result<u64, String> {
    let wrong = || "expected milliseconds since 1970, or YYYY-MM-DDTHH:MM:SS[.mmm]Z".to_owned();
    if let Ok(ms) = text.parse() {
        return Ok(ms);
    }
    let (date, time) = text.strip_suffix('Z').and_then(|t| t.split_once('T')).ok_or_else(wrong)?;
    let (time, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let numbers = |text: &str, separator: char| -> Option<[i64; 3]> {
        let parts: Vec<i64> = text.split(separator).map(|p| p.parse().ok()).collect::<Option<_>>()?;
        parts.try_into().ok()
    };
    let [year, month, day] = numbers(date, '-').ok_or_else(wrong)?;
    let [hour, minute, second] = numbers(time, ':').ok_or_else(wrong)?;
    let legal = (1970..=9999).contains(&year)
        && (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && (0..24).contains(&hour)
        && (0..60).contains(&minute)
        && (0..=60).contains(&second);
    let digits = fraction.len() <= 3 && fraction.bytes().all(|b| b.is_ascii_digit());
    if !legal || !digits {
        return Err(wrong());
    }
    let ms: i64 = format!("{fraction:0<3}").parse().map_err(|_| wrong())?;
    let seconds = days(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second;
    u64::try_from(seconds * 1000 + ms).map_err(|_| wrong())
}

/// Days since 1970 of a date of the Gregorian calendar, counted in years that begin in March.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let leap_days = year / 4 - year / 100 + year / 400;
    365 * year + leap_days + (153 * month + 2) / 5 + day - 1 - 719_468
}

fn path(vhost: &VhostArgs, name: &str) -> ApiPath {
    ApiPath::new("groups").at(&vhost.vhost).at(name)
}

/// Has milliseconds since 1970 be read as times are.
fn with_times(rows: &mut Value, name: &str) {
    for row in rows.as_array_mut().into_iter().flatten() {
        if let Some(time) = row.get(name).and_then(Value::as_u64).and_then(|ms| rfc3339(ms / 1000)) {
            row[name] = Value::from(time);
        }
    }
}

impl Groups {
    /// Does it.
    ///
    /// # Errors
    /// By the kind of what went wrong.
    pub fn run(&self) -> Result<(), Failure> {
        match self {
            Self::Ls { filter, server } => {
                let columns = [
                    ("VHOST", "vhost"),
                    ("NAME", "name"),
                    ("STATE", "state"),
                    ("MEMBERS", "members"),
                    ("TOPICS", "topics"),
                    ("LAG", "lag"),
                    ("EMPTY SINCE", "empty_since"),
                ];
                let mut groups = server.api().get(filter.path("groups"))?;
                if server.output.format() != Format::Json {
                    with_times(&mut groups, "empty_since");
                }
                server.output.list(&groups, &columns)
            }
            Self::Show { name, vhost, server } => {
                let mut group = server.api().get(path(vhost, name))?;
                if server.output.format() == Format::Json {
                    return server.output.item(&group);
                }
                let mut offsets = group.get_mut("offsets").map(Value::take).unwrap_or_default();
                with_times(&mut offsets, "expires_at");
                let columns = [
                    ("TOPIC", "topic"),
                    ("PARTITION", "partition"),
                    ("COMMITTED", "committed"),
                    ("END", "end"),
                    ("LAG", "lag"),
                    ("EXPIRES", "expires_at"),
                ];
                server.output.list(&offsets, &columns)
            }
            Self::Reset(args) => args.run(),
            Self::Delete { name, vhost, server } => {
                let answer = server.api().delete(path(vhost, name))?;
                server.output.done(&answer, &format!("group {name} is deleted"))
            }
        }
    }
}

impl ResetArgs {
    fn run(&self) -> Result<(), Failure> {
        let mut body = json!({ "dry_run": self.dry_run });
        self.to.write(&mut body);
        if let Some(topic) = &self.topic {
            body["topic"] = Value::from(topic.as_str());
        }
        if !self.partitions.is_empty() {
            body["partitions"] = self.partitions.clone().into();
        }
        let plan = self.server.api().post(path(&self.vhost, &self.name).at("reset"), &body)?;
        let columns = [("TOPIC", "topic"), ("PARTITION", "partition"), ("FROM", "from"), ("TO", "to"), ("END", "end")];
        self.server.output.list(&plan, &columns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read() {
        for (text, ms) in [
            ("0", 0),
            ("1700000000123", 1_700_000_000_123),
            ("1970-01-01T00:00:00Z", 0),
            ("2024-02-29T12:30:01.5Z", 1_709_209_801_500),
            ("2000-03-01T00:00:00Z", 951_868_800_000),
            ("2026-12-31T23:59:59.999Z", 1_798_761_599_999),
        ] {
            assert_eq!(timestamp(text), Ok(ms), "{text}");
        }
        for wrong in
            ["", "now", "2024-01-01", "2024-13-01T00:00:00Z", "2024-01-01T00:00:00", "2024-01-01T00:00:00.1234Z"]
        {
            assert!(timestamp(wrong).is_err(), "{wrong}");
        }
    }
}
