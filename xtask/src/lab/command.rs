// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Runs a command in an environment and prints its output.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;

use serde_json::Value;

use super::apt::Network;
use super::boot::{self, Console};
use super::cache;
use super::disk::Disk;
use super::environment::find;
use super::{Payload, doctor, make_bootable};
use crate::shell::{build_static_program, root};

/// Boots an environment, runs a command in it, and prints its output. `vmm` is
/// on its path. The selftests of its kernel, if it has some, are in `/selftests`.
///
/// # Errors
/// The environment is not available, the command fails, or its machine ends
/// first.
pub fn run(name: &str, words: &[String]) -> Result<(), String> {
    let architecture = find(name)?.architecture;
    let vmm = build_static_program("vmm", "vmm", &architecture.target)?;
    let files = [("bin/vmm", vmm.as_path())];
    boot(name, &files, words, true, &[], &mut std::io::stdout())
}

/// Runs a command in an environment and copies its output. `files` and `devices`
/// are as for [`output`].
///
/// # Errors
/// As for [`run`].
pub fn copy(
    name: &str,
    files: &[(&str, &Path)],
    words: &[&str],
    devices: &[String],
    to: &mut impl Write,
) -> Result<(), String> {
    let words: Vec<String> = words.iter().map(ToString::to_string).collect();
    boot(name, files, &words, false, devices, to)
}

/// The output of a command in an environment. `files` are put there, by their
/// paths without the first slash. `devices` are arguments of the emulator for
/// devices besides the usual ones.
///
/// # Errors
/// As for [`run`].
pub fn output(
    name: &str,
    files: &[(&str, &Path)],
    words: &[&str],
    devices: &[String],
) -> Result<Vec<u8>, String> {
    let mut printed = Vec::new();
    copy(name, files, words, devices, &mut printed)?;
    Ok(printed)
}

fn boot(
    name: &str,
    files: &[(&str, &Path)],
    words: &[String],
    selftests: bool,
    devices: &[String],
    to: &mut impl Write,
) -> Result<(), String> {
    let environment = find(name)?;
    if !environment.is_booted() {
        return Err(format!("{name} is where you are: run it here"));
    }
    doctor::can_boot(environment.architecture)?;
    let emulator = environment.architecture.qemu.0;
    let payload = Payload::Command {
        files,
        examples: &root().join("examples"),
        words,
        selftests,
    };
    let made = make_bootable(&[environment], &payload, Network::Daily, None);
    let bootable = made.into_iter().next().ok_or("no environment")??;
    let console = boot::results_folder()?.join(format!("{name}.command.log"));
    let disk = Disk::create(&console.with_extension("disk"))?;
    let mut command = bootable.command(Console::Command(&console), &disk);
    command.args(devices);
    // The emulator's messages matter only if it ends early.
    let complaints = console.with_extension("emulator");
    let file = File::create(&complaints).map_err(|e| cache::at(&complaints, &e))?;
    command.stderr(file);
    let mut child = command.spawn().map_err(|e| format!("{emulator}: {e}"))?;
    let out = child.stdout.take().ok_or("the emulator has no output")?;
    let exit = show(BufReader::new(out), to);
    // The machine has powered off or closed its port, so it ends by itself.
    let status = child.wait().map_err(|e| format!("{emulator}: {e}"))?;
    match exit {
        Some(0) => Ok(()),
        Some(exit) => Err(format!("the command ended with {exit}")),
        None => {
            let judgement = boot::judge(&console);
            let words = judgement.complaint().unwrap_or("it says nothing of it");
            let (console, complaints) = (console.display(), complaints.display());
            Err(format!(
                "the machine ended before the command ({status}): {words}; \
                 see {console} and {complaints}"
            ))
        }
    }
}

/// Copies a command's output. Returns its exit status, which the init script
/// appends as the last line.
fn show(out: impl BufRead, to: &mut impl Write) -> Option<i64> {
    let mut exit = None;
    for line in out.split(b'\n') {
        let line = line.ok()?;
        let said: Option<Value> = serde_json::from_slice(&line).ok();
        let number = |name| said.as_ref()?.get(name)?.as_i64();
        let text = |name| said.as_ref()?.get(name)?.as_str();
        if let Some(release) = text("init") {
            eprintln!("  Linux {release} is up");
        } else if let Some(note) = text("note").or(text("fault")) {
            eprintln!("  note: {note}");
        } else if let Some(status) = number("exit") {
            exit = Some(status);
        } else {
            // A reader that closes the pipe does not stop the command.
            let _ = to.write_all(&line).and_then(|()| to.write_all(b"\n"));
        }
    }
    exit
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_output_of_a_command_is_copied_and_the_last_line_is_its_status() {
        let said = b"{\"init\": \"7.3\"}\none\n{\"two\": 2}\n{\"exit\": 3}\n";
        let mut shown = Vec::new();
        assert_eq!(show(&said[..], &mut shown), Some(3));
        assert_eq!(shown, b"one\n{\"two\": 2}\n");
    }

    #[test]
    fn a_command_whose_machine_ends_has_no_status() {
        assert_eq!(show(&b"one\n"[..], &mut Vec::new()), None);
    }
}
