//! The processes of a container.

use std::io::Read as _;

use crate::Engine;
use crate::error::{Error, Result};
use crate::models::ContainerTopResponse;

/// At most so many processes are listed.
const PROCESSES: usize = 32_768;

impl Engine {
    /// `GET /containers/{id}/top`.
    pub async fn container_top(&self, reference: &str, ps_args: &str) -> Result<ContainerTopResponse> {
        let container = self.inner.registry.find(reference)?;
        let now = container.now();
        if now.state.status == crate::record::Status::Restarting {
            return Err(Error::conflict(format!(
                "container {} is restarting, wait until the container is running",
                now.def.id
            )));
        }
        if !now.state.status.is_alive() {
            return Err(Error::conflict(format!("container {} is not running", now.def.id)));
        }
        let columns = columns(ps_args)?;
        let memory = self.inner.host.memory;
        let (cgroups, path) = (self.inner.cgroups.clone(), now.state.cgroup.clone());
        let told = self.pids_by_shim(&now).await?;
        let titles = columns.iter().map(|c| c.title().to_owned()).collect();
        // A command line is in a process's own memory, which a file system that hangs may have to page in.
        let place = format!("the list of processes of container {}", now.def.id);
        let processes = self
            .inner
            .foreign
            .run(&[&place], move |_| -> Result<Vec<Vec<String>>> {
                let boot = boot_time();
                let mut pids = told.map_or_else(|| cgroups.pids(&path), Ok)?;
                pids.sort_unstable();
                pids.dedup();
                Ok(pids
                    .into_iter()
                    .take(PROCESSES)
                    .filter_map(|pid| Process::read(pid, boot))
                    .map(|p| columns.iter().map(|c| p.column(*c, memory)).collect())
                    .collect())
            })
            .await??;
        self.container_event(&now, "top", &[]);
        Ok(ContainerTopResponse { titles: Some(titles), processes: Some(processes) })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Column {
    Uid,
    User,
    Pid,
    Ppid,
    C,
    Stime,
    Tty,
    Time,
    Cmd,
    Command,
    Comm,
    Rss,
    Vsz,
    Stat,
    Pcpu,
    Pmem,
    Start,
}

impl Column {
    fn title(self) -> &'static str {
        match self {
            Self::Uid => "UID",
            Self::User => "USER",
            Self::Pid => "PID",
            Self::Ppid => "PPID",
            Self::C => "C",
            Self::Stime => "STIME",
            Self::Tty => "TTY",
            Self::Time => "TIME",
            Self::Cmd => "CMD",
            Self::Command | Self::Comm => "COMMAND",
            Self::Rss => "RSS",
            Self::Vsz => "VSZ",
            Self::Stat => "STAT",
            Self::Pcpu => "%CPU",
            Self::Pmem => "%MEM",
            Self::Start => "START",
        }
    }
}

/// The columns that `ps`'s arguments ask for; no program is run, so only its common forms are known.
fn columns(arguments: &str) -> Result<Vec<Column>> {
    use Column as C;
    let words: Vec<&str> = arguments.split_ascii_whitespace().collect();
    let unknown = |what: &str| {
        Error::invalid(format!(
            "ps arguments {what:?} are not supported: use -ef, aux or -o with a list of columns"
        ))
    };
    match words.as_slice() {
        [] | ["-ef" | "-fe" | "ef" | "-f"] => {
            Ok(vec![C::Uid, C::Pid, C::Ppid, C::C, C::Stime, C::Tty, C::Time, C::Cmd])
        }
        ["aux" | "-aux" | "axu" | "u" | "-u"] => {
            let first = [C::User, C::Pid, C::Pcpu, C::Pmem, C::Vsz, C::Rss];
            Ok([&first[..], &[C::Tty, C::Stat, C::Start, C::Time, C::Command]].concat())
        }
        [flags @ .., list] if flags.last().is_some_and(|f| f.ends_with('o')) => list
            .split(',')
            .map(|name| {
                Ok(match name {
                    "uid" => C::Uid,
                    "user" | "euser" => C::User,
                    "pid" => C::Pid,
                    "ppid" => C::Ppid,
                    "c" => C::C,
                    "stime" => C::Stime,
                    "start" | "start_time" => C::Start,
                    "pcpu" | "%cpu" => C::Pcpu,
                    "pmem" | "%mem" => C::Pmem,
                    "tty" | "tt" => C::Tty,
                    "time" => C::Time,
                    "cmd" => C::Cmd,
                    "args" | "command" => C::Command,
                    "comm" => C::Comm,
                    "rss" => C::Rss,
                    "vsz" => C::Vsz,
                    "stat" | "s" | "state" => C::Stat,
                    other => return Err(unknown(other)),
                })
            })
            .collect(),
        _ => Err(unknown(arguments)),
    }
}

fn boot_time() -> i64 {
    std::fs::read_to_string("/proc/stat")
        .unwrap_or_default()
        .lines()
        .find_map(|l| l.strip_prefix("btime "))
        .and_then(|t| t.trim().parse().ok())
        .unwrap_or(0)
}

/// A share in percent with one digit behind the point.
fn percent(part: u128, whole: u128) -> String {
    let tenths = part.saturating_mul(1000).checked_div(whole).unwrap_or(0);
    format!("{}.{}", tenths / 10, tenths % 10)
}

struct Process {
    pid: i32,
    uid: String,
    ppid: String,
    tty: String,
    time: u64,
    started: i64,
    command: String,
    comm: String,
    rss: u64,
    vsz: u64,
    state: String,
}

impl Process {
    fn read(pid: i32, boot: i64) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name is in parentheses and may hold anything.
        let (head, rest) = stat.rsplit_once(')')?;
        let comm = head.split_once('(')?.1.to_owned();
        let f: Vec<&str> = rest.split_ascii_whitespace().collect();
        let number = |i: usize| f.get(i).and_then(|t| t.parse::<u64>().ok()).unwrap_or(0);
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let uid = status
            .lines()
            .find_map(|l| l.strip_prefix("Uid:"))
            .and_then(|l| l.split_ascii_whitespace().next().map(str::to_owned))
            .unwrap_or_default();
        let mut line = Vec::new();
        if let Ok(file) = std::fs::File::open(format!("/proc/{pid}/cmdline")) {
            // A process may make this as long as it likes.
            let _ = file.take(65_536).read_to_end(&mut line);
        }
        let command = String::from_utf8_lossy(&line).trim_end_matches('\0').replace('\0', " ");
        let tty = match number(4) {
            0 => "?".to_owned(),
            device => format!("pts/{}", (device & 0xff) | ((device >> 12) & 0xf_ff00)),
        };
        Some(Self {
            pid,
            uid,
            ppid: number(1).to_string(),
            tty,
            time: (number(11) + number(12)) / 100,
            started: boot + i64::try_from(number(19) / 100).unwrap_or(0),
            command: if command.is_empty() { format!("[{comm}]") } else { command },
            comm,
            rss: number(21) * 4,
            vsz: number(20) / 1024,
            state: f.first().map(|s| (*s).to_owned()).unwrap_or_default(),
        })
    }

    /// Seconds since it began.
    fn age(&self) -> u128 {
        let now = i64::try_from(crate::record::now() / 1_000_000_000).unwrap_or(0);
        u128::try_from(now - self.started).unwrap_or(0)
    }

    /// `memory` is the machine's, in bytes.
    fn column(&self, column: Column, memory: u64) -> String {
        match column {
            // Names are the host's matter; numbers are always right.
            Column::Uid | Column::User => {
                if self.uid == "0" {
                    "root".into()
                } else {
                    self.uid.clone()
                }
            }
            Column::Pid => self.pid.to_string(),
            Column::Ppid => self.ppid.clone(),
            Column::C => "0".into(),
            Column::Pcpu => percent(u128::from(self.time), self.age()),
            Column::Pmem => percent(u128::from(self.rss) * 1024, u128::from(memory)),
            Column::Stime | Column::Start => jiff::Timestamp::from_second(self.started)
                .map(|t| t.to_zoned(jiff::tz::TimeZone::system()).strftime("%H:%M").to_string())
                .unwrap_or_default(),
            Column::Tty => self.tty.clone(),
            Column::Time => {
                format!("{:02}:{:02}:{:02}", self.time / 3600, self.time / 60 % 60, self.time % 60)
            }
            Column::Cmd | Column::Command => self.command.clone(),
            Column::Comm => self.comm.clone(),
            Column::Rss => self.rss.to_string(),
            Column::Vsz => self.vsz.to_string(),
            Column::Stat => self.state.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ps_arguments() {
        assert_eq!(columns("").unwrap().len(), 8);
        let aux: Vec<&str> = columns("aux").unwrap().iter().map(|c| c.title()).collect();
        assert_eq!(aux.join(" "), "USER PID %CPU %MEM VSZ RSS TTY STAT START TIME COMMAND");
        assert_eq!([percent(1, 8), percent(0, 0), percent(3, 2)], ["12.5", "0.0", "150.0"]);
        assert_eq!(columns("-eo pid,comm").unwrap(), [Column::Pid, Column::Comm]);
        for bad in ["-o foo", "--version", "-ef; rm"] {
            assert_eq!(columns(bad).unwrap_err().kind, crate::Kind::Invalid, "{bad}");
        }
    }

    #[test]
    fn own_process() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let p = Process::read(pid, boot_time()).unwrap();
        assert_eq!(p.pid, pid);
        assert!(!p.command.is_empty());
        assert!(p.started > 1_000_000_000);
    }
}
