// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Guests of a few instructions, booted as a user boots Linux: how they end, and
//! what they see of their machine.

use std::io::{Read, Write};
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::common::guest::{Code, Kernel, kvm};
use crate::common::{stderr, stdout};

/// The ports of PCI configuration space.
const CONFIG: (u16, u16) = (0xcf8, 0xcfc);
/// Configuration space in memory.
const ECAM: u32 = 0xe000_0000;

#[test]
fn a_guest_that_switches_itself_off_is_status_0() {
    let Some(_) = kvm() else { return };
    let code = Code::default().say("Linux\r\n").power_off().halt();
    let output = Kernel::new(&code).boot(&[], 0);
    assert_eq!(stdout(&output), "Linux\r\n");
    assert_eq!(stderr(&output), "\nvmm: the guest switched itself off\n");
}

#[test]
fn a_reset_is_status_3_and_with_the_flag_of_a_panic_1() {
    let Some(_) = kvm() else { return };
    type Reset = fn(Code) -> Code;
    let resets: [(&str, Reset); 3] = [
        ("the reset register", |code| code.out8(0x602, 1)),
        ("the keyboard controller", |code| code.out8(0x64, 0xfe)),
        // `ud2` without an interrupt table.
        ("a triple fault", |code| code.raw(&[0x0f, 0x0b])),
    ];
    for (what, reset) in resets {
        let output = Kernel::new(&reset(Code::default()).halt()).boot(&[], 3);
        assert_eq!(
            stderr(&output),
            "\nvmm: the guest reset the machine\n",
            "{what}"
        );
        let panics = reset(Code::default().mark_panic()).halt();
        let output = Kernel::new(&panics).boot(&[], 1);
        assert_eq!(
            stderr(&output),
            "\nvmm: the guest's kernel panicked\n",
            "{what}"
        );
    }
}

#[test]
fn an_instruction_that_kvm_cannot_emulate_is_status_4_and_shown() {
    let Some(_) = kvm() else { return };
    // `fld qword [0xd0000000]`: no KVM emulates the x87's arithmetic.
    let code = Code::default()
        .load32(0xd000_0000)
        .raw(&[0xdd, 0x02])
        .halt();
    let output = Kernel::new(&code).boot(&[], 4);
    let text = stderr(&output);
    let start =
        "\nvmm: a vCPU cannot go on: KVM cannot emulate the guest's instruction at 0x100207";
    assert!(text.replace("\n     ", " ").starts_with(start), "{text}");
    assert!(text.lines().all(|line| line.len() <= 80), "{text}");
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

#[test]
fn with_json_standard_output_is_one_object_with_what_was_seen() {
    let Some(_) = kvm() else { return };
    let code = Code::default().load32(0x472).print().power_off().halt();
    let (numbers, report) = Kernel::new(&code).report(&[], 0);
    assert_eq!(numbers, [0]);
    let object = report.as_object().unwrap();
    let keys: Vec<&str> = object.keys().map(String::as_str).collect();
    assert_eq!(keys, ["ended", "exits", "slots", "irqfds", "notes"]);
    assert_eq!(report["ended"], "power-off");
    let exits = json!([{"region": "power", "count": 1}, {"region": "serial port", "count": 4}]);
    assert_eq!(sorted(&report["exits"]), sorted(&exits));
    // The serial port's.
    assert_eq!(report["irqfds"], 1);
    assert_eq!(report["notes"], json!([]));
    let slots = report["slots"].as_array().unwrap();
    assert_eq!(slots.len(), 1, "{slots:?}");
    assert_eq!(
        (&slots[0]["gpa"], &slots[0]["size"]),
        (&json!("0x0"), &json!("0x2000000"))
    );
}

fn sorted(exits: &serde_json::Value) -> Vec<String> {
    let exits = exits.as_array().unwrap();
    let mut exits: Vec<String> = exits.iter().map(ToString::to_string).collect();
    exits.sort();
    exits
}

/// Selects a register of PCI device 1.
fn select(code: Code, register: u32) -> Code {
    code.out32(CONFIG.0, 1 << 31 | 1 << 11 | register)
}

fn set(code: Code, register: u32, value: u32) -> Code {
    select(code, register).out32(CONFIG.1, value)
}

fn print(code: Code, register: u32) -> Code {
    select(code, register).in32(CONFIG.1).print()
}

/// The address and the size of the memslot at a device's memory.
fn device_slots(report: &serde_json::Value) -> Vec<(String, String)> {
    let slots = report["slots"].as_array().unwrap().iter();
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_string();
    let all = slots.map(|slot| (text(&slot["gpa"]), text(&slot["size"])));
    all.filter(|(gpa, _)| gpa != "0x0").collect()
}

#[test]
fn a_guest_sizes_places_and_moves_a_bar_and_its_bytes_move_along() {
    let Some(_) = kvm() else { return };
    let (old, new) = (0xc000_0000, 0xc800_0000);
    let command = |code, value| set(code, 4, value);
    let load = |code: Code, at| code.load32(at + 0x10).print();

    let mut code = print(Code::default(), 0);
    code = code.load32(ECAM + (1 << 15)).print();
    // The size.
    code = set(set(code, 0x10, u32::MAX), 0x14, u32::MAX);
    code = print(print(code, 0x10), 0x14);
    // Placed, but not decoded yet.
    code = load(set(set(code, 0x10, old), 0x14, 0), old);
    code = load(command(code, 2).store32(old + 0x10, 0x1122_3344), old);
    // Moved while it is decoded.
    code = set(code, 0x10, new);
    code = load(load(code, old), new).store32(new + 0x10, 0x5566_7788);
    // Off and on again.
    code = load(command(code, 0), new);
    code = load(command(code, 2), new);
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
    let slot = ("0xc8000000".to_string(), "0x100000".to_string());
    assert_eq!(device_slots(&report), [slot]);
    assert_eq!(report["notes"], json!([]));
}

#[test]
fn a_bar_that_covers_ram_or_configuration_space_hides_neither() {
    let Some(_) = kvm() else { return };
    let mut code = set(set(Code::default(), 0x14, 0), 4, 2);
    for at in [0, ECAM] {
        code = set(code, 0x10, at).load32(ECAM + (1 << 15)).print();
    }
    let code = code.load32(0x10_0200).print().power_off().halt();
    let (numbers, report) = Kernel::new(&code).report(&["--device", "memory:1M"], 0);
    // The last one is the code itself: `mov edx, 0xcf8`.
    assert_eq!(
        numbers,
        [0x00f0_1b36, 0x00f0_1b36, 0x000c_f8ba],
        "{numbers:x?}"
    );
    assert_eq!(device_slots(&report), []);
}

#[test]
fn other_vcpus_start_at_a_startup_interrupt_and_share_memory() {
    let Some(_) = kvm() else { return };
    const CODE: u32 = 0x8000;
    const COUNTER: u32 = 0x8800;
    // Real mode: `cli; lock inc word [COUNTER]; hlt; jmp $-1`.
    let real = [
        0xfa, 0xf0, 0xff, 0x06, 0x00, 0x88, 0xf4, 0xeb, 0xfd, 0, 0, 0,
    ];
    let mut code = Code::default();
    for (at, word) in (CODE..).step_by(4).zip(real.as_chunks::<4>().0) {
        code = code.store32(at, u32::from_le_bytes(*word));
    }
    // The local APIC on, then INIT and a startup interrupt to all others.
    code = code.store32(0xfee0_00f0, 0x1ff);
    code = code.store32(0xfee0_0300, 0xc_4500);
    code = code.store32(0xfee0_0300, 0xc_4600 | CODE >> 12);
    // `cmp dword [COUNTER], 3; pause; jne $-10`.
    code = code.raw(&[
        0x83, 0x3c, 0x25, 0x00, 0x88, 0, 0, 3, 0xf3, 0x90, 0x75, 0xf4,
    ]);
    let code = code.load32(COUNTER).print().power_off().halt();
    let (numbers, _) = Kernel::new(&code).report(&["--cpus", "4"], 0);
    assert_eq!(numbers, [3]);
}
