// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Random programs, run by a vCPU and interpreted.

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::{Kvm, VcpuExit};
use kvm_slots::Vm;
use memmap2::MmapMut;

use super::program::{Label, Op, Reg};
use super::{Processor, TABLES_SIZE, compile, interpret, lay_out};
use crate::check::{at, same};
use crate::random::Random;
use crate::subject::host_page_size;

const TABLES: u64 = 0;
const CODE: u64 = 0x4000;
const DATA: u64 = 0x8000;
const SIZE: u64 = 0x1_0000;
/// The words that programs use, each register's last value behind them.
const WORDS: usize = 32;
/// An address without memory. A store there ends the program.
const END: u64 = 0x10_0000;

const PROGRAMS: usize = 40;
/// One for each kind of jump, twice.
const LABELS: [Label; 16] = [
    "a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n", "o", "p",
];

/// A vCPU computes, loads, stores and jumps as the interpreter does.
pub(crate) fn programs_do_the_same() -> Result<(), String> {
    let mut random = Random(0x5eed);
    for number in 0..PROGRAMS {
        let ops = program(&mut random);
        let values = Reg::ALL.map(|_| random.next());
        let memory: Vec<u64> = (0..WORDS).map(|_| random.next()).collect();
        let on_vcpu = run(&ops, values, &memory)?;
        let mut expected = memory;
        expected.resize(WORDS + Reg::ALL.len(), 0);
        let mut registers = values;
        // All but the store that ends it.
        interpret(
            &ops[..ops.len() - 1],
            &mut registers,
            DATA,
            &mut expected,
            ops.len(),
        )?;
        same(&format!("program {number}: {ops:?}"), on_vcpu, expected)?;
    }
    Ok(())
}

/// A random program with every kind of step except calls. [`Reg::R0`] is the
/// address of the data.
fn program(random: &mut Random) -> Vec<Op> {
    let mut ops = vec![Op::Constant(Reg::R0, DATA)];
    for (label, jump) in LABELS.into_iter().zip((0..8).cycle()) {
        for _ in 0..8 {
            ops.push(step(random));
        }
        let (a, b) = (reg(random), reg(random));
        let bit = shift(random);
        ops.push(match jump {
            0 => Op::Jump(label),
            1 => Op::JumpIfBelow(a, b, label),
            2 => Op::JumpUnlessBelow(a, b, label),
            3 => Op::JumpIfEqual(a, b, label),
            4 => Op::JumpUnlessEqual(a, b, label),
            5 => Op::JumpIfBit(a, bit, label),
            6 => Op::JumpUnlessBit(a, bit, label),
            _ => Op::JumpUnlessBitAt(a, b, label),
        });
        ops.extend([step(random), step(random), Op::Label(label)]);
    }
    for (offset, reg) in (WORDS..).zip(Reg::ALL).skip(1) {
        let offset = u16::try_from(8 * offset).expect("small");
        ops.push(Op::Store(reg, Reg::R0, offset));
    }
    ops.extend([Op::Constant(Reg::R1, END), Op::Store(Reg::R1, Reg::R1, 0)]);
    ops
}

/// A step that does not jump.
fn step(random: &mut Random) -> Op {
    let (a, b) = (reg(random), reg(random));
    let offset = 8 * u16::try_from(random.below(WORDS as u64)).expect("small");
    match random.below(15) {
        0 => Op::Constant(a, random.next()),
        1 => Op::Copy(a, b),
        2 => Op::Add(a, b),
        3 => Op::Subtract(a, b),
        4 => Op::Multiply(a, b),
        5 => Op::And(a, b),
        6 => Op::Or(a, b),
        7 => Op::Increase(a, u16::try_from(random.below(4096)).expect("small")),
        8 => Op::ShiftLeft(a, shift(random)),
        9 => Op::ShiftRight(a, shift(random)),
        10 | 11 => Op::Load(a, Reg::R0, offset),
        12 => Op::Store(a, Reg::R0, offset),
        13 => Op::Fence,
        _ => [Op::FenceLoads, Op::FenceFetch][usize::from(offset % 16 == 0)],
    }
}

/// Any register but the one with the data's address.
fn reg(random: &mut Random) -> Reg {
    let number = 1 + random.below(Reg::ALL.len() as u64 - 1);
    Reg::ALL[usize::try_from(number).expect("small")]
}

fn shift(random: &mut Random) -> u8 {
    u8::try_from(1 + random.below(63)).expect("small")
}

/// The data after a run of the program on a vCPU.
fn run(ops: &[Op], values: [u64; 14], data: &[u64]) -> Result<Vec<u64>, String> {
    const { assert!(TABLES_SIZE <= CODE) };
    let kvm = Kvm::new().map_err(at("/dev/kvm"))?;
    let (processor, vm) = Processor::with_vm(&kvm)?;
    let size = SIZE.next_multiple_of(host_page_size());
    let len = usize::try_from(size).map_err(at("a size"))?;
    let mut memory = MmapMut::map_anon(len).map_err(at("memory"))?;
    let code = compile(ops)?;
    same(
        "a short program",
        code.bytes().len() as u64 <= DATA - CODE,
        true,
    )?;
    let data: Vec<u8> = data.iter().flat_map(|word| word.to_le_bytes()).collect();
    lay_out(&mut memory, TABLES, [(CODE, code.bytes()), (DATA, &data)]);
    let region = kvm_userspace_memory_region {
        memory_size: size,
        userspace_addr: memory.as_mut_ptr() as u64,
        ..Default::default()
    };
    // SAFETY: the mapping outlives the vCPU, and this thread, which runs it, does
    // not access the mapping meanwhile.
    unsafe { vm.set_user_memory_region(&region) }.map_err(at("a slot"))?;
    let mut vcpu = vm.fd().create_vcpu(0).map_err(at("a vCPU"))?;
    let registers: Vec<_> = Reg::ALL.into_iter().zip(values).collect();
    processor.start(&vcpu, TABLES, CODE, &registers)?;
    match vcpu.run().map_err(at("KVM_RUN"))? {
        VcpuExit::MmioWrite(END, _) => {}
        other => return Err(format!("{other:?} instead of the program's end")),
    }
    drop(vcpu);
    let start = usize::try_from(DATA).expect("small");
    let words = memory[start..].chunks_exact(8).take(WORDS + Reg::ALL.len());
    let words = words.map(|bytes| bytes.try_into().map(u64::from_le_bytes));
    words.collect::<Result<_, _>>().map_err(at("a word"))
}
