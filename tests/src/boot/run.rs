// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Runs `vmm boot` as a process, with a time limit, and follows the guest's
//! console.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::report::Report;
use super::{Bars, Wrote};
use crate::check::at;
use crate::hardware::Message;
use crate::subject::host_page_size;
use crate::vfio::Model;

/// The program, and the guest's kernel and initramfs.
static FILES: OnceLock<[PathBuf; 3]> = OnceLock::new();

/// Where these files are in the lab.
const LAB_FILES: [&str; 3] = ["/bin/vmm", "/guest/kernel", "/guest/initrd"];

/// The kernel of confidential guests, in the lab.
const CONFIDENTIAL_KERNEL: &str = "/guest/confidential-kernel";

/// How long a guest may run.
const LIMIT: Duration = Duration::from_secs(280);

/// The seed of what is written to the disk, and of the guest's secret.
pub const SEED: u32 = 4711;

/// The RAM of a guest, in MiB.
pub const RAM: u64 = 256;

/// The kernel and its VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guest {
    /// Debian's kernel in an ordinary VM.
    Ordinary,
    /// The kernel of confidential guests in an ordinary VM.
    NotConfidential,
    /// The same kernel in a confidential VM.
    Confidential,
}

/// What is done to the VMM, by its process, while the guest waits for its console.
pub type WhileReading = fn(u32, &dyn Fn(Message)) -> Result<(), String>;

/// A guest to boot.
#[derive(Clone, Copy, Debug)]
pub struct Boot<'a> {
    /// What it does.
    pub scenario: &'a str,
    /// Its devices.
    pub devices: &'a [Model],
    /// How it reaches their BARs.
    pub bars: Bars,
    /// The first chunk of the disk to write. Each test has its own.
    pub first_chunk: u32,
    /// The number of vCPUs.
    pub cpus: u8,
    /// The number of functions with nothing but 1 MiB of memory.
    pub memory_functions: usize,
    /// Another initramfs than the usual one.
    pub initrd: Option<&'a str>,
    /// Its kernel.
    pub guest: Guest,
    /// What is done before it gets a line from its console.
    pub while_reading: WhileReading,
}

/// A guest that has ended.
#[derive(Clone, Debug)]
pub struct Ended {
    /// The guest's reports, without `guest: `.
    said: Vec<String>,
    /// The VMM's report.
    pub report: Report,
    /// How the VMM ended.
    pub status: ExitStatus,
    /// The output.
    output: Vec<String>,
}

/// Sets where the program `vmm`, the guest's kernel and its initramfs are, unless they
/// are in use already.
pub fn set_files(files: [PathBuf; 3]) {
    // Tests that already run keep theirs.
    let _ = FILES.set(files);
}

fn files() -> &'static [PathBuf; 3] {
    FILES.get_or_init(|| LAB_FILES.map(PathBuf::from))
}

/// What this machine lacks to run Linux as a guest, if anything.
pub fn lacks_guest() -> Option<String> {
    let missing = files().iter().find(|file| fs::metadata(file).is_err())?;
    Some(format!("there is no {}", missing.display()))
}

/// What this machine lacks to run Linux as a confidential guest, if anything.
pub fn lacks_confidential_guest() -> Option<String> {
    let missing = fs::metadata(CONFIDENTIAL_KERNEL).is_err();
    missing.then(|| format!("there is no {CONFIDENTIAL_KERNEL}"))
}

impl<'a> Boot<'a> {
    /// A guest with one vCPU and no devices.
    pub fn new(scenario: &'a str, bars: Bars) -> Self {
        Self {
            scenario,
            devices: &[],
            bars,
            first_chunk: 0,
            cpus: 1,
            memory_functions: 0,
            initrd: None,
            guest: Guest::Ordinary,
            while_reading: |_, _| Ok(()),
        }
    }

    /// Boots the guest and waits until it switches itself off. At the end, memslots
    /// must be where the guest has its BARs.
    ///
    /// # Errors
    /// As for [`until_end`](Self::until_end); the guest fails, or does not switch itself off.
    pub fn run(&self, report: &dyn Fn(Message)) -> Result<Ended, String> {
        let ended = self.until_end(report)?;
        if ended.said.last().is_none_or(|last| last != "done") {
            return Err(ended.because("the guest did not come to its end"));
        }
        let may_revoke = self.guest == Guest::Confidential;
        ended.report.is_power_off(may_revoke)?;
        let reported = ended.lines_with("bar ");
        ended.report.slots_are_at_bars(self.bars, reported)?;
        Ok(ended)
    }

    /// Boots the guest and waits for its end, whatever that is. While it uses its
    /// devices, the VMM's mappings must be those that are due.
    ///
    /// # Errors
    /// The guest does not end in time, or the VMM has no report.
    pub fn until_end(&self, report: &dyn Fn(Message)) -> Result<Ended, String> {
        let mut child = self.command()?.spawn().map_err(at("vmm"))?;
        let keyboard = child.stdin.take();
        let lines = console_of(&mut child);
        let printed = printed_by(&mut child);
        let followed = self.follow(child.id(), keyboard, &lines, report);
        if followed.is_err() {
            let _ = child.kill();
        }
        let status = child.wait().map_err(at("vmm"))?;
        let printed = printed.join().unwrap_or_default();
        let output = followed?;
        let because = |error: String| format!("{error}; {status}; {}", last_of(&output));
        let report = Report::parse(&printed).map_err(because)?;
        let said = output
            .iter()
            .filter_map(|line| line.strip_prefix("guest: "));
        Ok(Ended {
            said: said.map(String::from).collect(),
            report,
            status,
            output,
        })
    }

    fn command(&self) -> Result<Command, String> {
        let [program, kernel, initrd] = files();
        let (scenario, chunk) = (self.scenario, self.first_chunk);
        let mut command = Command::new(program);
        command.arg("boot").arg("--kernel");
        match self.guest {
            Guest::Ordinary => command.arg(kernel),
            Guest::NotConfidential => command.arg(CONFIDENTIAL_KERNEL),
            Guest::Confidential => command.args([CONFIDENTIAL_KERNEL, "--confidential"]),
        };
        command.arg("--initrd");
        command.arg(self.initrd.map_or(initrd.as_path(), Path::new));
        command.arg("--memory").arg(format!("{RAM}M"));
        command.args(["--json", "--append"]);
        command.arg(format!(
            "quiet guest.run={scenario} guest.seed={SEED} guest.chunk={chunk}"
        ));
        command.arg("--cpus").arg(self.cpus.to_string());
        for _ in 0..self.memory_functions {
            command.args(["--device", "memory:1M"]);
        }
        for device in self.devices {
            command.arg("--device").arg(device.bound()?.to_string());
        }
        match self.bars {
            Bars::HostMapped => {}
            Bars::Private => drop(command.args(["--abi", "fd-offset"])),
            Bars::Trapped => drop(command.arg("--trap")),
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        // With --json, the console is standard error.
        command.stderr(Stdio::piped());
        Ok(command)
    }

    /// The lines until the output ends.
    fn follow(
        &self,
        process: u32,
        mut keyboard: Option<ChildStdin>,
        lines: &Receiver<String>,
        report: &dyn Fn(Message),
    ) -> Result<Vec<String>, String> {
        let start = Instant::now();
        let mut output: Vec<String> = Vec::new();
        loop {
            let left = LIMIT.saturating_sub(start.elapsed());
            match lines.recv_timeout(left) {
                Ok(line) => {
                    if let Some(said) = line.strip_prefix("guest: ") {
                        report(Message::Progress(said.into()));
                    }
                    let wrote = wrote(&line)?;
                    if wrote.is_some() || line.starts_with("guest: up ") {
                        self.check_mappings(process)?;
                    }
                    if let Some(wrote) = wrote {
                        report(Message::Wrote(wrote));
                    }
                    if line == "guest: reads" {
                        (self.while_reading)(process, report)?;
                        let keyboard = keyboard.as_mut().ok_or("no keyboard")?;
                        keyboard
                            .write_all(b"a line\n")
                            .map_err(at("the keyboard"))?;
                    }
                    output.push(line);
                }
                Err(RecvTimeoutError::Disconnected) => return Ok(output),
                Err(RecvTimeoutError::Timeout) => {
                    let seconds = LIMIT.as_secs();
                    return Err(format!("not over after {seconds} s; {}", last_of(&output)));
                }
            }
        }
    }

    /// Whether all BARs of the devices are one page each, with an MSI-X table in it: nvme's
    /// BAR of 16 KiB on hosts with such pages.
    fn tables_take_all(&self) -> bool {
        host_page_size() >= 16 << 10 && self.devices.iter().all(|model| *model == Model::Nvme)
    }

    /// The VMM has a mapping of a BAR if the BARs are host-mapped, and only then. It
    /// never has one of private RAM.
    fn check_mappings(&self, process: u32) -> Result<(), String> {
        if self.devices.is_empty() {
            return Ok(());
        }
        let maps = fs::read_to_string(format!("/proc/{process}/maps")).map_err(at("maps"))?;
        let is_private = |line: &&str| line.contains("gmem") || line.contains("guest_memfd");
        if let Some(line) = maps.lines().find(is_private) {
            return Err(format!("the VMM has a mapping of private RAM: {line}"));
        }
        let is_device = |line: &&str| line.contains("vfio") || line.contains("dmabuf");
        let bars = match self.bars {
            Bars::HostMapped if self.tables_take_all() => Bars::Trapped,
            bars => bars,
        };
        match (bars, maps.lines().find(is_device)) {
            (Bars::HostMapped, Some(_)) | (Bars::Private | Bars::Trapped, None) => Ok(()),
            (Bars::HostMapped, None) => Err("the VMM has no mapping of a BAR".into()),
            (_, Some(line)) => Err(format!("the VMM has a mapping: {line}")),
        }
    }
}

impl Ended {
    /// An error with the output behind it.
    pub fn because(&self, error: &str) -> String {
        format!("{error}; {}; {}", self.status, last_of(&self.output))
    }

    /// What the guest reported after this word.
    pub fn lines_with<'a>(&'a self, start: &'a str) -> impl Iterator<Item = &'a str> {
        self.said
            .iter()
            .filter_map(move |line| line.strip_prefix(start))
    }

    /// Requires that the guest reported this.
    pub fn says(&self, start: &str) -> Result<(), String> {
        match self.lines_with(start).next() {
            Some(_) => Ok(()),
            None => Err(format!(
                "the guest did not report '{start}': {:?}",
                self.said
            )),
        }
    }

    /// Requires that Linux moved a BAR so many times.
    pub fn moved(&self, times: usize) -> Result<(), String> {
        match self.lines_with("moved ").count() {
            count if count == times => Ok(()),
            count => Err(format!("the BAR moved {count} times, not {times}")),
        }
    }

    /// Requires that the guest wrote to the disk so many times.
    pub fn wrote(&self, times: usize) -> Result<(), String> {
        match self.lines_with("wrote ").count() {
            count if count == times => Ok(()),
            count => Err(format!("the guest wrote {count} times, not {times}")),
        }
    }
}

/// Reads `guest: wrote offset=N length=N sha256=TEXT`.
fn wrote(line: &str) -> Result<Option<Wrote>, String> {
    let Some(fields) = line.strip_prefix("guest: wrote ") else {
        return Ok(None);
    };
    let field = |name: &str| {
        let value = |field: &str| Some(field.strip_prefix(name)?.strip_prefix('=')?.to_string());
        let found = fields.split(' ').find_map(value);
        found.ok_or_else(|| format!("there is no {name} in '{line}'"))
    };
    let number = |name: &str| field(name)?.parse().map_err(at(line));
    Ok(Some(Wrote {
        offset: number("offset")?,
        length: number("length")?,
        sha256: field("sha256")?,
    }))
}

/// The lines of the console, and the VMM's errors, as they arrive.
fn console_of(child: &mut Child) -> Receiver<String> {
    let (to, from) = channel();
    if let Some(console) = child.stderr.take() {
        thread::spawn(move || {
            for line in BufReader::new(console).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).trim_end().to_string();
                if to.send(line).is_err() {
                    break;
                }
            }
        });
    }
    from
}

/// What the VMM prints to its standard output.
fn printed_by(child: &mut Child) -> JoinHandle<String> {
    let from = child.stdout.take();
    thread::spawn(move || {
        let mut text = Vec::new();
        if let Some(mut from) = from {
            // What was read until an error is what there is.
            let _ = from.read_to_end(&mut text);
        }
        String::from_utf8_lossy(&text).trim_end().to_string()
    })
}

/// The end of the output, for messages.
fn last_of(output: &[String]) -> String {
    let last = &output[output.len().saturating_sub(30)..];
    format!("the output ends with:\n{}", last.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_guest_wrote_is_read_from_its_line() {
        let line = "guest: wrote offset=1048576 length=131072 sha256=3c59";
        let wrote = wrote(line).expect("it is whole").expect("it wrote");
        assert_eq!((wrote.offset, wrote.length), (1 << 20, 1 << 17));
        assert_eq!(wrote.sha256, "3c59");
    }

    #[test]
    fn a_line_that_is_cut_is_an_error() {
        assert_eq!(wrote("guest: done"), Ok(None));
        assert!(wrote("guest: wrote offset=1048576 length=").is_err());
        assert!(wrote("guest: wrote offset=1048576 length=1").is_err());
    }
}
