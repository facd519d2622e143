// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The initramfs of a lab kernel or of a guest: busybox, the modules, the tests
//! or scenarios, and the script that starts them.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use super::cache::{self, Cache};
use super::kernel::Ready;
use super::obstacle::Obstacle;
use super::selftests;

/// The first program that a lab kernel starts.
const INIT: &str = include_str!("../../lab/init");

/// The first program of a guest.
const GUEST_INIT: &str = include_str!("../../lab/guest/init");

/// What a guest can run, by name, and what these scripts share.
const SCENARIOS: [(&str, &str); 14] = [
    ("common", include_str!("../../lab/guest/common")),
    ("console", include_str!("../../lab/guest/console")),
    ("disk", include_str!("../../lab/guest/disk")),
    (
        "disk_functions",
        include_str!("../../lab/guest/disk_functions"),
    ),
    ("edu", include_str!("../../lab/guest/edu")),
    ("enable", include_str!("../../lab/guest/enable")),
    ("idle", include_str!("../../lab/guest/idle")),
    ("memory", include_str!("../../lab/guest/memory")),
    ("move", include_str!("../../lab/guest/move")),
    ("net", include_str!("../../lab/guest/net")),
    ("reads", include_str!("../../lab/guest/reads")),
    ("revoke", include_str!("../../lab/guest/revoke")),
    ("secret", include_str!("../../lab/guest/secret")),
    ("touch", include_str!("../../lab/guest/touch")),
];

/// What a lab kernel runs.
#[derive(Clone, Debug)]
pub enum Payload<'a> {
    /// The hardware tests, or a shell next to them.
    Tests {
        /// The test program.
        program: &'a Path,
        /// The program `vmm`, which some tests run.
        vmm: &'a Path,
        /// Whether the selftests of the environment's kernel are carried.
        selftests: bool,
    },
    /// A command, with programs and other files, and the project's examples.
    Command {
        /// The files by their paths there, without the first slash.
        files: &'a [(&'a str, &'a Path)],
        /// The folder of machine files.
        examples: &'a Path,
        /// The words of the command.
        words: &'a [String],
        /// Whether the selftests of the environment's kernel are carried.
        selftests: bool,
    },
    /// Scenarios, in a guest of `vmm boot`.
    Guest,
}

impl Payload<'_> {
    fn has_selftests(&self) -> bool {
        match self {
            Self::Tests { selftests, .. } | Self::Command { selftests, .. } => *selftests,
            Self::Guest => false,
        }
    }

    /// Checks whether the payload can do with these selftests. Tests do not run
    /// without selftests that do not build; a command does.
    ///
    /// # Errors
    /// Why there are none.
    pub fn accepts(&self, selftests: &Result<PathBuf, Obstacle>) -> Result<(), Obstacle> {
        match (self, selftests) {
            (Self::Tests { selftests, .. }, Err(obstacle)) if *selftests && obstacle.is_fault() => {
                let why = format!("its kernel's selftests: {obstacle}");
                Err(Obstacle::Fault(why))
            }
            _ => Ok(()),
        }
    }
}

/// A Linux to boot as a guest.
#[derive(Clone, Debug)]
pub struct Guest {
    /// Its kernel.
    pub kernel: PathBuf,
    /// Its initramfs.
    pub initrd: PathBuf,
    /// The kernel to boot confidentially, with the same initramfs.
    pub confidential_kernel: Option<PathBuf>,
}

/// Assembles an environment's initramfs and returns its path, and the file, which keeps
/// it from being removed while it is open. Its name identifies the content. Earlier ones
/// of the environment that no run needs are removed. A guest is put into the folder
/// `guest`.
///
/// # Errors
/// A part cannot be read, or the initramfs cannot be written.
pub fn assemble(
    cache: &Cache,
    ready: &Ready,
    payload: &Payload<'_>,
    guest: Option<&Guest>,
    results_port: &str,
) -> Result<(PathBuf, File), String> {
    let mut archive = Archive::default();
    for folder in ["bin", "dev", "etc", "examples", "modules", "scenarios"] {
        archive.folder(folder);
    }
    // The kernel opens it for init before init can mount anything.
    archive.device("dev/console", 5, 1);
    let read = |path: &Path| fs::read(path).map_err(|e| cache::at(path, &e));
    let init = match payload {
        Payload::Guest => GUEST_INIT,
        Payload::Tests { .. } | Payload::Command { .. } => INIT,
    };
    archive.file("init", 0o755, init.as_bytes())?;
    archive.file("bin/busybox", 0o755, &read(&ready.busybox)?)?;
    let purpose = match payload {
        Payload::Tests { program, vmm, .. } => {
            archive.file("hw-tests", 0o755, &read(program)?)?;
            archive.file("bin/vmm", 0o755, &read(vmm)?)?;
            "tests"
        }
        Payload::Command {
            files,
            examples,
            words,
            ..
        } => {
            for (place, file) in *files {
                archive.folders_of(place);
                archive.file(place, 0o755, &read(file)?)?;
            }
            for path in cache::files(examples) {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                archive.file(&format!("examples/{name}"), 0o644, &read(&path)?)?;
            }
            archive.file("etc/command", 0o644, shell_line(words).as_bytes())?;
            "command"
        }
        Payload::Guest => {
            for (name, script) in SCENARIOS {
                archive.file(&format!("scenarios/{name}"), 0o644, script.as_bytes())?;
            }
            "scenarios"
        }
    };
    if payload.has_selftests() {
        archive.folder("selftests");
        match &ready.selftests {
            Ok(folder) => {
                for path in selftests::carried(folder)? {
                    let name = path.strip_prefix(folder).unwrap_or(&path).display();
                    let place = format!("selftests/{name}");
                    archive.folders_of(&place);
                    archive.file(&place, 0o755, &read(&path)?)?;
                }
            }
            Err(why) => archive.file("selftests/missing", 0o644, why.to_string().as_bytes())?,
        }
    }
    if let Some(guest) = guest {
        archive.folder("guest");
        archive.file("guest/kernel", 0o644, &read(&guest.kernel)?)?;
        archive.file("guest/initrd", 0o644, &read(&guest.initrd)?)?;
        if let Some(kernel) = &guest.confidential_kernel {
            archive.file("guest/confidential-kernel", 0o644, &read(kernel)?)?;
        }
    }
    archive.file("etc/results", 0o644, results_port.as_bytes())?;
    for module in &ready.modules {
        let name = module.file_name().unwrap_or_default().to_string_lossy();
        archive.file(&format!("modules/{name}"), 0o644, &read(module)?)?;
    }
    let bytes = archive.end();
    let name = format!("{}.{purpose}", ready.environment.name);
    let folder = cache.folder("initramfs")?.join(name);
    let place = folder.join(format!("{}.cpio", cache::key([bytes.as_slice()])));
    if !place.exists() {
        remove_unused(&folder)?;
        cache::make_folder(&folder)?;
        cache::write(&place, &bytes)?;
    }
    let in_use = File::open(&place).map_err(|e| cache::at(&place, &e))?;
    in_use.lock_shared().map_err(|e| cache::at(&place, &e))?;
    Ok((place, in_use))
}

/// Removes the files of a folder that no run has locked.
fn remove_unused(folder: &Path) -> Result<(), String> {
    for path in cache::files(folder) {
        let file = File::open(&path).map_err(|e| cache::at(&path, &e))?;
        if file.try_lock().is_ok() {
            cache::remove(&path)?;
        }
    }
    Ok(())
}

/// A command line for a shell, with each word quoted.
fn shell_line(words: &[String]) -> String {
    let quoted = words.iter().map(|word| word.replace('\'', r"'\''"));
    let quoted: Vec<String> = quoted.map(|word| format!("'{word}'")).collect();
    quoted.join(" ") + "\n"
}

/// A cpio archive in the format that Linux documents for its initramfs
/// (`buffer-format.rst`): a header of hexadecimal fields, the name, the
/// content, each padded to four bytes.
#[derive(Debug, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    /// Adds a folder.
    pub fn folder(&mut self, name: &str) {
        self.entry(name, 0o040_755, 0, (0, 0));
    }

    /// Adds the folders that a file is in. Linux ignores those that it has.
    fn folders_of(&mut self, place: &str) {
        for (end, _) in place.match_indices('/') {
            self.folder(&place[..end]);
        }
    }

    /// Adds a character device.
    pub fn device(&mut self, name: &str, major: u32, minor: u32) {
        self.entry(name, 0o020_600, 0, (major, minor));
    }

    /// Adds a file.
    ///
    /// # Errors
    /// It is 4 GiB or larger: the format has no room for its size.
    pub fn file(&mut self, name: &str, mode: u32, content: &[u8]) -> Result<(), String> {
        let size = u32::try_from(content.len()).map_err(|_| format!("{name} is too large"))?;
        self.entry(name, 0o100_000 | mode, size, (0, 0));
        self.bytes.extend_from_slice(content);
        self.pad();
        Ok(())
    }

    /// The whole archive.
    pub fn end(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, 0, (0, 0));
        self.bytes
    }

    fn entry(&mut self, name: &str, mode: u32, size: u32, device: (u32, u32)) {
        self.entries += 1;
        let name_size = u32::try_from(name.len() + 1).unwrap_or(u32::MAX);
        let links = if mode & 0o170_000 == 0o040_000 { 2 } else { 1 };
        let fields = [
            self.entries,
            mode,
            0, // owner
            0, // group
            links,
            0, // time: the same content makes the same archive
            size,
            0, // device of the file system
            0,
            device.0,
            device.1,
            name_size,
            0, // checksum: not in this format
        ];
        let mut header = String::from("070701");
        for field in fields {
            // Writing to a string cannot fail.
            let _ = write!(header, "{field:08X}");
        }
        self.bytes.extend_from_slice(header.as_bytes());
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A reader that shares no code with the writer: name, mode and content.
    fn read(mut bytes: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
        let mut entries = Vec::new();
        loop {
            assert_eq!(&bytes[..6], b"070701");
            let field = |number: usize| {
                let at = 6 + number * 8;
                let text = std::str::from_utf8(&bytes[at..at + 8]).expect("text");
                usize::from_str_radix(text, 16).expect("hexadecimal")
            };
            let (mode, size, name_size) = (field(1), field(6), field(11));
            let name = std::str::from_utf8(&bytes[110..110 + name_size - 1]).expect("text");
            let content_at = (110 + name_size).div_ceil(4) * 4;
            let content = &bytes[content_at..content_at + size];
            if name == "TRAILER!!!" {
                return entries;
            }
            let mode = u32::try_from(mode).expect("small");
            entries.push((name.to_string(), mode, content.to_vec()));
            bytes = &bytes[(content_at + size).div_ceil(4) * 4..];
        }
    }

    #[test]
    fn an_archive_has_its_files_whatever_the_lengths() {
        let mut archive = Archive::default();
        archive.folder("bin");
        archive.device("dev/console", 5, 1);
        for length in 0..9 {
            let (name, content) = ("n".repeat(length + 1), vec![b'c'; length]);
            archive.file(&name, 0o644, &content).expect("small");
        }
        let entries = read(&archive.end());
        assert_eq!(entries[0], ("bin".to_string(), 0o040_755, Vec::new()));
        assert_eq!(
            entries[1],
            ("dev/console".to_string(), 0o020_600, Vec::new())
        );
        for (length, entry) in entries[2..].iter().enumerate() {
            let expected = ("n".repeat(length + 1), 0o100_644, vec![b'c'; length]);
            assert_eq!(*entry, expected);
        }
        assert_eq!(entries.len(), 11);
    }

    #[test]
    fn a_shell_reads_each_word_of_a_command_unchanged() {
        let words = ["printf", "%s|", "it's", "a b", "$HOME", ""].map(String::from);
        let shell = std::process::Command::new("sh")
            .args(["-c", &shell_line(&words)])
            .output()
            .expect("a shell");
        assert_eq!(String::from_utf8_lossy(&shell.stdout), "it's|a b|$HOME||");
    }

    #[test]
    fn an_initramfs_that_a_run_needs_is_not_removed() {
        let folder = tempfile::tempdir().expect("a folder");
        let [needed, other] = ["needed.cpio", "other.cpio"].map(|name| folder.path().join(name));
        for path in [&needed, &other] {
            fs::write(path, "").expect("written");
        }
        let queued = File::open(&needed).expect("it is there");
        queued.lock_shared().expect("locked");
        assert_eq!(remove_unused(folder.path()), Ok(()));
        assert_eq!((needed.exists(), other.exists()), (true, false));
        drop(queued);
        assert_eq!(remove_unused(folder.path()), Ok(()));
        assert!(!needed.exists());
    }

    #[test]
    fn tests_do_not_run_without_selftests_that_do_not_build() {
        let tests = |selftests| Payload::Tests {
            program: Path::new("hw-tests"),
            vmm: Path::new("vmm"),
            selftests,
        };
        let fault = Err(Obstacle::Fault("0007.patch does not apply".into()));
        let error = tests(true).accepts(&fault).expect_err("a fault");
        assert!(error.is_fault() && error.to_string().contains("0007.patch"));
        assert_eq!(tests(false).accepts(&fault), Ok(()));
        for obstacle in [Obstacle::Missing, Obstacle::TooLong] {
            let selftests = Err(obstacle("without uuid-dev".into()));
            assert_eq!(tests(true).accepts(&selftests), Ok(()));
        }
        assert_eq!(tests(true).accepts(&Ok("selftests".into())), Ok(()));
    }

    #[test]
    fn the_same_content_makes_the_same_archive() {
        let make = || {
            let mut archive = Archive::default();
            archive.file("init", 0o755, b"#!/bin/sh").expect("small");
            archive.end()
        };
        assert_eq!(make(), make());
    }
}
