// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Programs as A64 instructions.

use vmm::guest::aarch64::asm::{self, Condition, X};

use crate::vcpu::program::{Code, Op, Reg};

/// A register that programs do not have.
const SCRATCH: X = X(16);

/// The instructions of a program.
///
/// # Errors
/// A label is missing.
pub fn compile(ops: &[Op]) -> Result<Code, String> {
    Code::assemble(ops, |op, distance| asm::bytes(encode(op, distance)))
}

/// The instructions of one step whose label is `distance` bytes away.
fn encode(op: Op, distance: i64) -> Vec<u32> {
    let distance = i32::try_from(distance / 4).expect("a short program");
    let compare = |a, b, condition| {
        let branch = asm::b_if(condition, distance - 1);
        vec![asm::cmp(x(a), x(b)), branch]
    };
    let one = |word| vec![word];
    match op {
        Op::Label(_) => Vec::new(),
        Op::Constant(a, value) => asm::load_immediate(x(a), value).to_vec(),
        Op::Copy(a, b) => one(asm::mov(x(a), x(b))),
        Op::Add(a, b) => one(asm::add(x(a), x(a), x(b))),
        Op::Subtract(a, b) => one(asm::sub(x(a), x(a), x(b))),
        Op::Multiply(a, b) => one(asm::mul(x(a), x(a), x(b))),
        Op::And(a, b) => one(asm::and(x(a), x(a), x(b))),
        Op::Or(a, b) => one(asm::orr(x(a), x(a), x(b))),
        Op::Increase(a, by) => one(asm::add_immediate(x(a), x(a), by.into())),
        Op::ShiftLeft(a, by) => one(asm::lsl_immediate(x(a), x(a), by.into())),
        Op::ShiftRight(a, by) => one(asm::lsr_immediate(x(a), x(a), by.into())),
        Op::Load(a, base, offset) => one(asm::ldr(8, x(a), x(base), offset.into())),
        Op::Store(a, base, offset) => one(asm::str(8, x(a), x(base), offset.into())),
        Op::Jump(_) => one(asm::b(distance)),
        Op::JumpIfBelow(a, b, _) => compare(a, b, Condition::Lo),
        Op::JumpUnlessBelow(a, b, _) => compare(a, b, Condition::Hs),
        Op::JumpIfEqual(a, b, _) => compare(a, b, Condition::Eq),
        Op::JumpUnlessEqual(a, b, _) => compare(a, b, Condition::Ne),
        Op::JumpIfBit(a, bit, _) => one(asm::tbnz(x(a), bit.into(), distance)),
        Op::JumpUnlessBit(a, bit, _) => one(asm::tbz(x(a), bit.into(), distance)),
        Op::JumpUnlessBitAt(a, b, _) => vec![
            asm::lsr(SCRATCH, x(a), x(b)),
            asm::tbz(SCRATCH, 0, distance - 1),
        ],
        Op::Call(a) => one(asm::blr(x(a))),
        Op::Return => one(asm::RET),
        Op::Fence => one(asm::DMB_ISH),
        Op::FenceLoads => one(asm::DMB_ISHLD),
        Op::FenceFetch => vec![asm::DSB_SY, asm::ISB],
    }
}

fn x(reg: Reg) -> X {
    X(reg as u8)
}
