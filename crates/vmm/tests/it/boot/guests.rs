// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Guests of a few instructions, booted as a user boots Linux: how they end, and
//! what they see of their machine.

#[cfg(target_arch = "aarch64")]
mod aarch64;
#[cfg(target_arch = "x86_64")]
mod x86_64;

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use vmm::boot::config::BootConfig;
use vmm::boot::machine::Machine;
use vmm::boot::outcome::Outcome;
use vmm::boot::report::Report;

use crate::common::guest::{Code, ECAM, ENTRY, Kernel, PLACES, POWER, RAM, kvm};
use crate::common::{stderr, stdout};

#[test]
fn a_guest_that_switches_itself_off_is_status_0() {
    let Some(_) = kvm() else { return };
    let code = Code::default().say("Linux\r\n").power_off().halt();
    let output = Kernel::new(&code).boot(&[], 0);
    assert_eq!(stdout(&output), "Linux\r\n");
    assert_eq!(stderr(&output), "\nvmm: the guest switched itself off\n");
}

#[test]
fn a_guest_that_waits_for_ever_ends_with_a_signal_or_with_ctrl_a_x() {
    let Some(_) = kvm() else { return };
    let kernel = Kernel::new(&Code::default().say("!").halt());
    for cpus in ["1", "3"] {
        for by_signal in [true, false] {
            let mut command = kernel.command(&["--cpus", cpus]);
            command.stdin(Stdio::piped());
            let piped = command.stdout(Stdio::piped()).stderr(Stdio::piped());
            let mut child = piped.spawn().unwrap();
            let mut first = [0];
            let console = child.stdout.as_mut().unwrap();
            console.read_exact(&mut first).unwrap();
            match by_signal {
                true => kill_process(Pid::from_child(&child), Signal::TERM).unwrap(),
                false => {
                    child.stdin.as_mut().unwrap().write_all(b"\x01x").unwrap();
                }
            }
            let output = child.wait_with_output().unwrap();
            assert_eq!(output.status.code(), Some(5), "{}", stderr(&output));
            assert_eq!(stderr(&output), "\nvmm: left\n");
        }
    }
}

/// Starts a guest that writes more than its console takes, and waits until it is stuck.
/// With `--json`, the console is standard error.
fn stuck(kernel: &Kernel, json: bool) -> (Child, OwnedFd) {
    let (console, out) = rustix::pipe::pipe().unwrap();
    // Of at least a page.
    rustix::pipe::fcntl_setpipe_size(&console, 4096).unwrap();
    let probe = out.try_clone().unwrap();
    let mut command = kernel.command(if json { &["--json"] } else { &[] });
    match json {
        true => command.stdout(Stdio::piped()).stderr(out),
        false => command.stdout(out).stderr(Stdio::piped()),
    };
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    let start = Instant::now();
    while has_room(&probe) {
        let ended = child.try_wait().unwrap();
        let in_time = start.elapsed() < Duration::from_secs(60);
        assert!(in_time && ended.is_none(), "the console is not full");
        std::thread::sleep(Duration::from_millis(10));
    }
    // Until the guest writes its next byte.
    std::thread::sleep(Duration::from_millis(100));
    (child, console)
}

/// Whether a pipe polls as writable. It does not once its last page is in use.
fn has_room(pipe: &OwnedFd) -> bool {
    let no_wait = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    poll(&mut [PollFd::new(pipe, PollFlags::OUT)], Some(&no_wait)).unwrap() > 0
}

#[test]
fn a_guest_whose_console_no_one_reads_can_be_left() {
    let Some(_) = kvm() else { return };
    let kernel = Kernel::new(&Code::default().say(&"x".repeat(80 << 10)).halt());
    // With and without a key for the guest, which takes none; and by a signal.
    for keys in [Some(&b"q\x01x"[..]), Some(b"\x01x"), None] {
        let (mut child, _console) = stuck(&kernel, false);
        match keys {
            Some(keys) => child.stdin.as_mut().unwrap().write_all(keys).unwrap(),
            None => kill_process(Pid::from_child(&child), Signal::TERM).unwrap(),
        }
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(5), "{}", stderr(&output));
        assert!(stderr(&output).contains("the console took no output"));
    }
}

#[test]
fn with_json_a_guest_whose_console_no_one_reads_can_be_left_with_a_report() {
    let Some(_) = kvm() else { return };
    let kernel = Kernel::new(&Code::default().say(&"x".repeat(80 << 10)).halt());
    // By a signal, and after a help text that no one reads either.
    for keys in [None, Some(b"\x01h\x01x")] {
        let (mut child, _console) = stuck(&kernel, true);
        match keys {
            Some(keys) => child.stdin.as_mut().unwrap().write_all(keys).unwrap(),
            None => kill_process(Pid::from_child(&child), Signal::TERM).unwrap(),
        }
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(5));
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(report["ended"], "left");
        let note = report["notes"][0].as_str().unwrap();
        assert!(note.contains("the console took no output"), "{note}");
    }
}

#[test]
fn a_console_on_a_full_disk_is_status_4_with_the_error() {
    let Some(_) = kvm() else { return };
    let kernel = Kernel::new(&Code::default().say("!").halt());
    let full = File::options().write(true).open("/dev/full").unwrap();
    let output = kernel.command(&[]).stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(4), "{}", stderr(&output));
    let said = stderr(&output).replace("\n     ", " ");
    assert!(
        said.contains("its console cannot be written: No space left"),
        "{said}"
    );
}

#[test]
fn a_report_does_not_wait_for_a_vcpu_that_is_changing_memory() {
    let Some(device) = kvm() else { return };
    let kernel = Kernel::new(&Code::default().halt());
    let config = BootConfig {
        kernel: kernel.path(),
        initrd: None,
        append: String::new(),
        memory: 32 << 20,
        cpus: 1,
        devices: Vec::new(),
        abi: kvm_slots::AbiProfile::None,
        trap: false,
        confidential: false,
        kvm_device: device.into(),
    };
    let console = File::options().write(true).open("/dev/null").unwrap();
    let machine = Machine::new(&config, console.into()).unwrap();
    let changing = machine.spaces.model();
    let report = Report::new(&machine, Outcome::Left);
    assert!(report.slots.is_empty());
    assert!(report.notes[0].contains("still changing memory"));
    drop(changing);
    let report = Report::new(&machine, Outcome::Left);
    assert_eq!((report.slots.len(), report.notes.len()), (1, 0));
}

#[test]
fn a_report_that_cannot_be_written_keeps_the_status_of_the_guest() {
    let Some(_) = kvm() else { return };
    let kernel = Kernel::new(&Code::default().power_off().halt());
    let full = File::options().write(true).open("/dev/full").unwrap();
    let output = kernel.command(&["--json"]).stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let lost = "\nvmm: the report cannot be written: No space left";
    assert!(stderr(&output).contains(lost), "{}", stderr(&output));
}

#[test]
fn with_json_standard_output_is_one_object_with_what_was_seen() {
    let Some(_) = kvm() else { return };
    let code = Code::default()
        .load32(RAM + (1 << 20))
        .print()
        .power_off()
        .halt();
    let (numbers, report) = Kernel::new(&code).report(&[], 0);
    assert_eq!(numbers, [0]);
    let object = report.as_object().unwrap();
    let keys: Vec<&str> = object.keys().map(String::as_str).collect();
    assert_eq!(keys, ["ended", "exits", "slots", "irqfds", "notes"]);
    assert_eq!(report["ended"], "power-off");
    let power = POWER
        .iter()
        .map(|region| json!({"region": region, "count": 1}));
    let serial = json!({"region": "serial port", "count": 4});
    let exits = power.chain([serial]).collect::<Vec<_>>();
    assert_eq!(sorted(&report["exits"]), sorted(&json!(exits)));
    // The serial port's.
    assert_eq!(report["irqfds"], 1);
    assert_eq!(report["notes"], json!([]));
    let slots = report["slots"].as_array().unwrap();
    assert_eq!(slots.len(), 1, "{slots:?}");
    assert_eq!(
        (&slots[0]["gpa"], &slots[0]["size"]),
        (&json!(format!("{RAM:#x}")), &json!("0x2000000"))
    );
}

fn sorted(exits: &serde_json::Value) -> Vec<String> {
    let exits = exits.as_array().unwrap();
    let mut exits: Vec<String> = exits.iter().map(ToString::to_string).collect();
    exits.sort();
    exits
}

/// The address and the size of the memslot at a device's memory.
fn device_slots(report: &serde_json::Value) -> Vec<(String, String)> {
    let slots = report["slots"].as_array().unwrap().iter();
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_string();
    let all = slots.map(|slot| (text(&slot["gpa"]), text(&slot["size"])));
    all.filter(|(gpa, _)| *gpa != format!("{RAM:#x}")).collect()
}

#[test]
fn a_guest_sizes_places_and_moves_a_bar_and_its_bytes_move_along() {
    let Some(_) = kvm() else { return };
    let [old, new] = PLACES;
    let load = |code: Code, at| code.load32(at + 0x10).print();

    let mut code = Code::default().config_print(0);
    code = code.load32(ECAM + (1 << 15)).print();
    // The size.
    code = code.config_set(0x10, u32::MAX).config_set(0x14, u32::MAX);
    code = code.config_print(0x10).config_print(0x14);
    // Placed, but not decoded yet.
    code = load(code.config_set(0x10, old).config_set(0x14, 0), old);
    code = code.config_set(4, 2).store32(old + 0x10, 0x1122_3344);
    code = load(code, old);
    // Moved while it is decoded.
    code = code.config_set(0x10, new);
    code = load(load(code, old), new).store32(new + 0x10, 0x5566_7788);
    // Off and on again.
    code = load(code.config_set(4, 0), new);
    code = load(code.config_set(4, 2), new);
    let code = code.power_off().halt();

    let (numbers, report) = Kernel::new(&code).report(&["--device", "memory:1M"], 0);
    let id = 0x00f0_1b36;
    let ones = u32::MAX;
    let expected = [
        id,
        id,
        0xfff0_000c,
        ones,
        ones,
        0x1122_3344,
        ones,
        0x1122_3344,
        ones,
        0x5566_7788,
    ];
    assert_eq!(numbers, expected, "{numbers:x?}");
    let slot = (format!("{new:#x}"), "0x100000".to_string());
    assert_eq!(device_slots(&report), [slot]);
    assert_eq!(report["notes"], json!([]));
}

#[test]
fn a_bar_that_covers_ram_or_configuration_space_hides_neither() {
    let Some(_) = kvm() else { return };
    let mut code = Code::default().config_set(0x14, 0).config_set(4, 2);
    for at in [RAM, ECAM] {
        code = code.config_set(0x10, at);
        code = code.load32(ECAM + (1 << 15)).print();
    }
    let code = code.load32(ENTRY).print().power_off().halt();
    let first = code.first_word();
    let (numbers, report) = Kernel::new(&code).report(&["--device", "memory:1M"], 0);
    // The last one is the code itself.
    assert_eq!(numbers, [0x00f0_1b36, 0x00f0_1b36, first], "{numbers:x?}");
    assert_eq!(device_slots(&report), []);
}
