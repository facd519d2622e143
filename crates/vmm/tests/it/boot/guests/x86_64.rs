// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Resets, instructions and vCPUs of x86.

use crate::common::guest::{Code, Kernel, kvm};
use crate::common::stderr;

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
fn a_string_instruction_accesses_its_port_in_its_width_each_time() {
    let Some(_) = kvm() else { return };
    const BUFFER: u32 = 2 << 20;
    // `mov edx, port; mov edi, BUFFER; mov ecx, count; cld`, and the instruction.
    let repeat = |code: Code, port: u32, count: u32, instruction: &[u8]| {
        let code = code.raw(&[0xba]).raw(&port.to_le_bytes());
        let code = code.raw(&[0xbf]).raw(&BUFFER.to_le_bytes());
        let code = code.raw(&[0xb9]).raw(&count.to_le_bytes());
        code.raw(&[0xfc]).raw(instruction)
    };
    let (insb, insd) = ([0xf3, 0x6c], [0xf3, 0x6d]);

    // The identity of PCI device 1, three times.
    let mut code = repeat(Code::default().config_print(0), 0xcfc, 3, &insd);
    for word in 0..3 {
        code = code.load32(BUFFER + 4 * word).print();
    }
    // The scratch register of the serial port, twice.
    code = code.store32(BUFFER, 0).out8(0x3ff, 0x5a);
    code = repeat(code, 0x3ff, 2, &insb).load32(BUFFER).print();
    let code = code.power_off().halt();
    let (numbers, _) = Kernel::new(&code).report(&["--device", "memory:1M"], 0);
    let id = 0x00f0_1b36;
    assert_eq!(numbers, [id, id, id, id, 0x5a5a], "{numbers:x?}");
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
