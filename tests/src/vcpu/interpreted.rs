// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a program does, step by step: the expectation of what vCPUs do.

use super::program::{Op, Reg, step_at};

/// Runs a program to its end or its return, at most `steps` steps, with `memory`
/// from address `start` on.
///
/// # Errors
/// The step that is not possible: an access outside the memory, a call, or one
/// too many.
pub fn interpret(
    ops: &[Op],
    registers: &mut [u64; 14],
    start: u64,
    memory: &mut [u64],
    steps: usize,
) -> Result<(), String> {
    let mut next = 0;
    for _ in 0..steps {
        let Some(op) = ops.get(next) else {
            return Ok(());
        };
        next += 1;
        let value = |reg: Reg| registers[reg as usize];
        let word = |base: Reg, offset: u16| {
            let address = value(base).wrapping_add(offset.into());
            let offset = address.checked_sub(start).filter(|n| n % 8 == 0);
            let word = offset.and_then(|n| usize::try_from(n / 8).ok());
            word.filter(|n| *n < memory.len())
                .ok_or_else(|| format!("{op:?} at {address:#x}"))
        };
        let changed = match *op {
            Op::Label(_) | Op::Fence | Op::FenceLoads | Op::FenceFetch => None,
            Op::Constant(a, constant) => Some((a, constant)),
            Op::Copy(a, b) => Some((a, value(b))),
            Op::Add(a, b) => Some((a, value(a).wrapping_add(value(b)))),
            Op::Subtract(a, b) => Some((a, value(a).wrapping_sub(value(b)))),
            Op::Multiply(a, b) => Some((a, value(a).wrapping_mul(value(b)))),
            Op::And(a, b) => Some((a, value(a) & value(b))),
            Op::Or(a, b) => Some((a, value(a) | value(b))),
            Op::Increase(a, by) => Some((a, value(a).wrapping_add(by.into()))),
            Op::ShiftLeft(a, by) => Some((a, value(a) << by)),
            Op::ShiftRight(a, by) => Some((a, value(a) >> by)),
            Op::Load(a, base, offset) => Some((a, memory[word(base, offset)?])),
            Op::Store(a, base, offset) => {
                memory[word(base, offset)?] = value(a);
                None
            }
            Op::Return => return Ok(()),
            Op::Call(_) => return Err("a call has no steps".into()),
            Op::Jump(_)
            | Op::JumpIfBelow(..)
            | Op::JumpUnlessBelow(..)
            | Op::JumpIfEqual(..)
            | Op::JumpUnlessEqual(..)
            | Op::JumpIfBit(..)
            | Op::JumpUnlessBit(..)
            | Op::JumpUnlessBitAt(..) => {
                if jumps(*op, value)
                    && let Some(label) = op.target()
                {
                    next = step_at(ops, label)?;
                }
                None
            }
        };
        if let Some((reg, new)) = changed {
            registers[reg as usize] = new;
        }
    }
    Err(format!("it has not ended after {steps} steps"))
}

fn jumps(op: Op, value: impl Fn(Reg) -> u64) -> bool {
    match op {
        Op::Jump(_) => true,
        Op::JumpIfBelow(a, b, _) => value(a) < value(b),
        Op::JumpUnlessBelow(a, b, _) => value(a) >= value(b),
        Op::JumpIfEqual(a, b, _) => value(a) == value(b),
        Op::JumpUnlessEqual(a, b, _) => value(a) != value(b),
        Op::JumpIfBit(a, bit, _) => value(a) >> bit & 1 == 1,
        Op::JumpUnlessBit(a, bit, _) => value(a) >> bit & 1 == 0,
        Op::JumpUnlessBitAt(a, b, _) => value(a) >> (value(b) % 64) & 1 == 0,
        _ => false,
    }
}
