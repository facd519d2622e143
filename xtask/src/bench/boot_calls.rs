// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a boot of Linux asks of KVM, with `vmm boot` and with QEMU: on this
//! machine if its KVM can run a Linux, otherwise in the lab.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::{line, wrapped};
use crate::lab::apt::Network;
use crate::lab::architecture::X86_64;
use crate::lab::architecture::native;
use crate::lab::command;
use crate::lab::environment::guest_of;
use crate::lab::guest;
use crate::shell::{build_static_program, capture};

/// The environment, if it is not this machine.
const ENVIRONMENT: &str = "debian-7.3";

/// The folders of QEMU's firmware, and what a machine without option ROMs needs.
const FIRMWARE: [&str; 2] = ["/usr/share/qemu", "/usr/share/seabios"];
const FIRMWARE_FILES: [&str; 4] = [
    "bios-256k.bin",
    "kvmvapic.bin",
    "linuxboot.bin",
    "linuxboot_dma.bin",
];

/// The counts, with a description and a unit.
const COUNTS: [(&str, &str, f64); 6] = [
    ("memslots", "memslot ioctls", 1.0),
    ("unchanged", "of these, nothing changed", 1.0),
    ("failed", "of these, refused", 1.0),
    ("slots", "memslots at the end", 1.0),
    ("us", "time in them, ms, as strace sees it", 1000.0),
    ("exits", "returns of KVM_RUN", 1.0),
];

/// The table, or the reason why there is none.
pub fn table() -> String {
    let title = "Booting Linux with 8 PCI functions with 1 MiB of memory, to power-off";
    match measured() {
        Ok(table) => format!("{title}\n{table}"),
        Err(why) => format!("{title}: not measured: {why}\n"),
    }
}

fn measured() -> Result<String, String> {
    let [strace, qemu] = [installed("strace")?, installed(X86_64.qemu.0)?];
    let tests = build_static_program("tests", "hw-tests", &X86_64.target)?;
    let vmm = build_static_program("vmm", "vmm", &X86_64.target)?;
    eprintln!("xtask: tracing a boot on this machine");
    let (place, printed) = match on_the_host(&tests, &vmm, &strace, &qemu) {
        Ok(printed) => ("On this machine".to_string(), printed),
        Err(why) => {
            eprintln!("xtask: {why}\nxtask: tracing boots in {ENVIRONMENT}: some minutes");
            let why = why
                .rsplit_once("hw-tests: ")
                .map_or(why.as_str(), |(_, last)| last);
            let place = format!("In {ENVIRONMENT}, under emulation. Not on this machine: {why}");
            (place, in_the_lab(&tests, &vmm, &strace, &qemu)?)
        }
    };
    let lines = printed.split(|&byte| byte == b'\n');
    let rows: Vec<Value> = lines
        .filter_map(|line| serde_json::from_slice(line).ok())
        .collect();
    let table = table_of(&rows).ok_or("it said nothing")?;
    let place = wrapped(&format!("{place}. QEMU's counts include its firmware's."));
    Ok(format!("{place}\n\n{table}"))
}

fn on_the_host(tests: &Path, vmm: &Path, strace: &Path, qemu: &Path) -> Result<Vec<u8>, String> {
    let guest = guest_of(native()).ok_or("no guest for this machine")?;
    let guest = guest::make(guest, Network::Daily)?;
    let mut command = Command::new(tests);
    command.arg("--boot-calls").args([strace, qemu, vmm]);
    command.args([guest.kernel(), guest.initramfs()]);
    capture(&mut command).map(String::into_bytes)
}

fn in_the_lab(tests: &Path, vmm: &Path, strace: &Path, qemu: &Path) -> Result<Vec<u8>, String> {
    let mut programs = libraries(strace)?;
    programs.extend(libraries(qemu)?);
    programs.extend([strace.into(), qemu.into()]);
    let firmware = FIRMWARE_FILES.map(|name| {
        let places = FIRMWARE.map(|folder| Path::new(folder).join(name));
        places.into_iter().find(|place| place.exists())
    });
    programs.extend(firmware.into_iter().flatten());
    programs.sort();
    programs.dedup();
    let names: Vec<String> = programs
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    let mut files = vec![("bin/hw-tests", tests), ("bin/vmm", vmm)];
    let there = names.iter().map(|name| name.trim_start_matches('/'));
    files.extend(there.zip(programs.iter().map(PathBuf::as_path)));
    let (strace, qemu) = (strace.display().to_string(), qemu.display().to_string());
    let words = [
        "hw-tests",
        "--boot-calls",
        &strace,
        &qemu,
        "/bin/vmm",
        "/guest/kernel",
        "/guest/initrd",
    ];
    command::output(ENVIRONMENT, &files, &words, &[])
}

/// The path of a program.
fn installed(name: &str) -> Result<PathBuf, String> {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let mut places = std::env::split_paths(&folders).map(|folder| folder.join(name));
    let found = places.find(|place| place.is_file());
    found.ok_or_else(|| format!("{name} is not installed"))
}

/// The shared libraries of a program, and its dynamic linker.
fn libraries(program: &Path) -> Result<Vec<PathBuf>, String> {
    let listed = capture(Command::new("ldd").arg(program))?;
    let words = listed.split_whitespace();
    Ok(words
        .filter(|word| word.starts_with('/'))
        .map(PathBuf::from)
        .collect())
}

fn table_of(rows: &[Value]) -> Option<String> {
    let of = |by: &str| rows.iter().find(|row| row["by"] == by);
    let (ours, peers) = (of("vmm")?, of("qemu")?);
    let mut table = String::from("| | `vmm boot` | QEMU |\n| --- | ---: | ---: |\n");
    for (count, words, unit) in COUNTS {
        let cell = |row: &Value| {
            Some(match row[count].as_f64() {
                Some(value) if unit > 1.0 => format!("{:.1}", value / unit),
                Some(value) => format!("{value}"),
                None if row[count].is_null() => "not shown".into(),
                None => return None,
            })
        };
        line(
            &mut table,
            &format!("| {words} | {} | {} |", cell(ours)?, cell(peers)?),
        );
    }
    Some(table)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_count_is_a_line_and_each_program_a_column() {
        let row = |by: &str, memslots: u64| {
            json!({
                "by": by, "memslots": memslots, "unchanged": 0, "failed": 0, "slots": 9, "us": 1260.0,
                "exits": 12_345,
            })
        };
        let rows = [row("vmm", 20), row("qemu", 50)];
        let table = table_of(&rows).expect("both are there");
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines[2], "| memslot ioctls | 20 | 50 |");
        assert!(lines[6].ends_with("| 1.3 | 1.3 |"), "{table}");
        // A missing value is not invented.
        assert_eq!(table_of(&rows[..1]), None);
    }
}
