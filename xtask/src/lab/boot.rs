// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Boots an environment in the emulator.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use kernel_log::Judgement;

use super::architecture::Architecture;
use super::cache;
use super::disk::Disk;
use super::kernel::Ready;
use crate::shell::root;

/// The devices for the tests, each in an IOMMU group of its own: a network card
/// with an MSI-X BAR and an I/O BAR, a device with one BAR of 1 MiB, one with a
/// BAR of plain memory and another that is smaller than a page, a disk
/// controller with its MSI-X table in the middle of its registers, and a test
/// device with a small memory BAR and an I/O BAR. The network has nothing but
/// the emulator in it.
fn devices(has_large_bars: bool) -> [&'static str; 14] {
    let [memory, testdev] = match has_large_bars {
        false => [
            "memory-backend-ram,id=shared,size=1M,share=on",
            "pci-testdev",
        ],
        true => [
            "memory-backend-ram,id=shared,size=16M,share=on",
            "pci-testdev,membar=2G",
        ],
    };
    [
        "-netdev",
        "user,id=net,restrict=on",
        "-device",
        "e1000e,romfile=,netdev=net",
        "-device",
        "edu",
        "-object",
        memory,
        "-device",
        "ivshmem-plain,memdev=shared",
        "-device",
        "nvme,serial=lab,drive=disk",
        "-device",
        testdev,
    ]
}

/// The memory of the lab's machine in MiB. With 2560, two of seven runs of the
/// tests that boot Linux with four vCPUs hung, for a reason that is not known.
const MEMORY: &str = "1024";

/// What to run, and where the first serial port is connected.
#[derive(Clone, Copy, Debug)]
pub enum Console<'a> {
    /// Run the tests. The port of the results is standard output.
    File {
        /// The file for the console.
        path: &'a Path,
        /// The number of random operations of each differential test.
        operations: u64,
        /// Run only tests with this text in their names. No blanks.
        only: &'a str,
        /// Which of the kernel's own selftests are run.
        selftests: &'a str,
    },
    /// Run a command. The console is written to this file, the command's output
    /// to standard output.
    Command(&'a Path),
    /// Run a shell on this terminal.
    Shell,
}

/// The command that boots an environment. The machine never reboots: a panic
/// ends it.
pub fn command(ready: &Ready, initramfs: &Path, console: Console<'_>, disk: &Disk) -> Command {
    let architecture = ready.environment.architecture;
    let mut command = Command::new(architecture.qemu.0);
    command.args(["-nodefaults", "-no-user-config", "-no-reboot"]);
    let variant = ready.environment.variant;
    let processors = variant.processors.to_string();
    command.args(["-display", "none", "-smp", &processors, "-m", MEMORY]);
    command.args(architecture.machine);
    command.arg("-drive").arg(disk.drive());
    command.args(devices(variant.has_large_bars));
    command.arg("-kernel").arg(&ready.image);
    command.arg("-initrd").arg(initramfs);
    let mut parameters = format!(
        "console={} panic=-1 oops=panic {} {}",
        architecture.ports.console, architecture.parameters, variant.parameters
    );
    match console {
        Console::File {
            path,
            operations,
            only,
            selftests,
        } => {
            parameters += &format!(" lab.operations={operations} lab.selftests={selftests}");
            let required = ready.environment.required;
            if !required.is_empty() {
                parameters += &format!(" lab.require={}", required.join(","));
            }
            if !only.is_empty() {
                parameters += &format!(" lab.only={only}");
            }
            to_file(&mut command, architecture, path);
        }
        Console::Command(path) => to_file(&mut command, architecture, path),
        Console::Shell => {
            parameters += " quiet lab.shell";
            command.args(["-serial", "mon:stdio", "-chardev", "null,id=results"]);
            command.args(architecture.results_device);
        }
    }
    command.arg("-append").arg(parameters);
    command
}

/// The console to a file, the results to standard output.
fn to_file(command: &mut Command, architecture: &Architecture, path: &Path) {
    let mut file = OsString::from("file:");
    file.push(path);
    command.arg("-serial").arg(file);
    command.args(["-chardev", "stdio,id=results"]);
    command.args(architecture.results_device);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
}

/// Locks the files of a machine: this one and those that differ by its extension.
/// Waits for another run that has locked them.
///
/// # Errors
/// They cannot be locked.
pub fn lock(name: &str, file: &Path) -> Result<File, String> {
    cache::lock(&file.with_extension("lock"), &format!("runs {name}"))
}

/// What a console says of its kernel, however long it is.
pub fn judge(console: &Path) -> Judgement {
    let mut judgement = Judgement::default();
    if let Ok(file) = File::open(console) {
        for_each_line(BufReader::new(file), |line| judgement.line(line));
    }
    judgement
}

/// Reads the lines of a console. Bytes that are not text are replaced, and a line
/// that is very long is split.
fn for_each_line(mut console: impl BufRead, mut take: impl FnMut(&str)) {
    const LONGEST: u64 = 1 << 20;
    let mut line = Vec::new();
    while matches!(
        console.by_ref().take(LONGEST).read_until(b'\n', &mut line),
        Ok(1..)
    ) {
        take(&String::from_utf8_lossy(&line));
        line.clear();
    }
}

/// Appends to a console what others say of its machine.
pub fn append(console: &Path, words: &[u8]) -> Result<(), String> {
    let log = File::options().create(true).append(true).open(console);
    let added = log.and_then(|mut log| log.write_all(words));
    added.map_err(|e| cache::at(console, &e))
}

/// The console's text for display, or its end if it is long.
pub fn console(path: &Path) -> String {
    const MOST: usize = 512 * 1024;
    let bytes = fs::read(path).unwrap_or_default();
    let end = &bytes[bytes.len().saturating_sub(MOST)..];
    String::from_utf8_lossy(end).replace('\r', "")
}

/// The default folder for reports and consoles.
pub fn results_folder() -> Result<PathBuf, String> {
    let folder = root().join("target").join("hw-test");
    cache::make_folder(&folder)?;
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::Obstacle;
    use crate::lab::environment::find;

    fn words(name: &str, console: Console<'_>) -> Vec<String> {
        let ready = Ready {
            environment: find(name).expect("known"),
            origin: String::new(),
            image: "image".into(),
            modules: Vec::new(),
            busybox: "busybox".into(),
            selftests: Err(Obstacle::Missing("none".into())),
        };
        let folder = tempfile::tempdir().expect("a folder");
        let disk = Disk::create(&folder.path().join("disk")).expect("an image");
        let command = command(&ready, Path::new("ramfs"), console, &disk);
        let words = command.get_args().map(|word| word.to_string_lossy());
        let emulator = command.get_program().to_string_lossy();
        [emulator]
            .into_iter()
            .chain(words)
            .map(String::from)
            .collect()
    }

    fn after(words: &[String], option: &str) -> String {
        let at = words.iter().position(|word| word == option);
        words[at.expect("the option") + 1].clone()
    }

    fn tests() -> Console<'static> {
        Console::File {
            path: Path::new("console.log"),
            operations: 7,
            only: "this",
            selftests: "quick",
        }
    }

    #[test]
    fn the_start_of_a_long_console_is_judged_and_its_end_is_shown() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("console.log");
        let warning = "[ 4.2] WARNING: suspicious RCU usage";
        let noise = "[ 5.0] \u{1b}[32mnoise\n".repeat(1 << 17);
        let start = format!("[ 0.0] Linux version 7.3.4-lab\r\n{warning}\r\n");
        let text = [start.as_bytes(), b"\xff\n", noise.as_bytes()].concat();
        fs::write(&path, text).expect("written");
        assert_eq!(judge(&path).complaint(), Some(warning));
        assert!(!console(&path).contains(warning));
        assert_eq!(judge(&folder.path().join("none")), Judgement::default());
    }

    #[test]
    fn the_console_goes_to_a_file_and_the_results_to_standard_output() {
        let words = words("lab-7.3-private-mmio-no-npt", tests());
        let line = words.join(" ");
        assert!(line.contains("-serial file:console.log -chardev stdio,id=results -serial"));
        let last = words.last().expect("parameters");
        assert!(last.contains("panic=-1") && last.contains("kvm_amd.npt=0"));
        assert!(words.contains(&"pci-testdev,membar=2G".to_string()));
        assert_eq!(after(&words, "-smp"), "1");
        assert!(
            last.ends_with(
                "lab.operations=7 lab.selftests=quick lab.require=kvm,vfio,vfio-cdev lab.only=this"
            ),
            "{last}"
        );
    }

    #[test]
    fn a_machine_has_the_ports_of_its_architecture() {
        for (name, emulator, console) in [
            ("lab-7.3", "qemu-system-x86_64", "console=ttyS0 "),
            (
                "arm64-debian-7.3",
                "qemu-system-aarch64",
                "console=ttyAMA0 ",
            ),
        ] {
            for port in [tests(), Console::Shell] {
                let words = words(name, port);
                assert_eq!(words[0], emulator);
                assert!(after(&words, "-append").starts_with(console));
                assert!(
                    words
                        .iter()
                        .any(|word| word.contains("chardev=results") || word == "chardev:results")
                );
            }
        }
    }
}
