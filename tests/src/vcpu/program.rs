// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a guest does, without regard to the architecture.

/// A register of 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "they differ in their numbers only")]
pub enum Reg {
    R0,
    R1,
    R2,
    R3,
    R4,
    R5,
    R6,
    R7,
    R8,
    R9,
    R10,
    R11,
    R12,
    R13,
}

impl Reg {
    /// All registers.
    pub const ALL: [Self; 14] = [
        Self::R0,
        Self::R1,
        Self::R2,
        Self::R3,
        Self::R4,
        Self::R5,
        Self::R6,
        Self::R7,
        Self::R8,
        Self::R9,
        Self::R10,
        Self::R11,
        Self::R12,
        Self::R13,
    ];
}

/// The name of a place in a program.
pub type Label = &'static str;

/// A step of a program. Where there are two registers, the first one is changed
/// or compared with the second. Numbers are unsigned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Names the place before the next step.
    Label(Label),
    /// Sets a register to a constant.
    Constant(Reg, u64),
    /// Copies the second register to the first.
    Copy(Reg, Reg),
    /// Adds the second register to the first, modulo 2^64.
    Add(Reg, Reg),
    /// Subtracts the second register from the first, modulo 2^64.
    Subtract(Reg, Reg),
    /// Multiplies the first register by the second, modulo 2^64.
    Multiply(Reg, Reg),
    /// Keeps the bits of the first register that are set in the second.
    And(Reg, Reg),
    /// Sets the bits of the first register that are set in the second.
    Or(Reg, Reg),
    /// Adds a constant below 4096.
    Increase(Reg, u16),
    /// Shifts left by 1 to 63 bits.
    ShiftLeft(Reg, u8),
    /// Shifts right by 1 to 63 bits.
    ShiftRight(Reg, u8),
    /// Loads the first register from the address in the second, plus an offset.
    /// One instruction and one access of 8 bytes, which must be aligned. The
    /// offset is a multiple of 8 below 4096.
    Load(Reg, Reg, u16),
    /// Stores the first register there; as [`Load`](Self::Load).
    Store(Reg, Reg, u16),
    /// Continues at the label.
    Jump(Label),
    /// Jumps if the first register is below the second.
    JumpIfBelow(Reg, Reg, Label),
    /// Jumps if the first register is not below the second.
    JumpUnlessBelow(Reg, Reg, Label),
    /// Jumps if the registers are equal.
    JumpIfEqual(Reg, Reg, Label),
    /// Jumps if the registers are not equal.
    JumpUnlessEqual(Reg, Reg, Label),
    /// Jumps if this bit of the register is set.
    JumpIfBit(Reg, u8, Label),
    /// Jumps if this bit of the register is clear.
    JumpUnlessBit(Reg, u8, Label),
    /// Jumps if the bit of the first register whose number is in the second,
    /// modulo 64, is clear.
    JumpUnlessBitAt(Reg, Reg, Label),
    /// Calls the function at the address in the register. Calls do not nest.
    Call(Reg),
    /// Returns from a function.
    Return,
    /// Other processors see the accesses before it before those after it.
    Fence,
    /// The loads before it are made before the accesses after it.
    FenceLoads,
    /// The loads before it are made before the instructions after it are fetched,
    /// and those are fetched before later loads are made.
    FenceFetch,
}

impl Op {
    /// Where a jump leads.
    pub(super) fn target(self) -> Option<Label> {
        match self {
            Self::Jump(label)
            | Self::JumpIfBelow(_, _, label)
            | Self::JumpUnlessBelow(_, _, label)
            | Self::JumpIfEqual(_, _, label)
            | Self::JumpUnlessEqual(_, _, label)
            | Self::JumpIfBit(_, _, label)
            | Self::JumpUnlessBit(_, _, label)
            | Self::JumpUnlessBitAt(_, _, label) => Some(label),
            _ => None,
        }
    }
}

/// The step after a label.
pub(super) fn step_at(ops: &[Op], label: Label) -> Result<usize, String> {
    let mut steps = ops.iter().enumerate();
    let found = steps.find(|(_, op)| **op == Op::Label(label));
    let found = found.map(|(number, _)| number);
    found.ok_or_else(|| format!("the program has no label '{label}'"))
}

/// The instructions of a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Code {
    bytes: Vec<u8>,
    /// Where each step begins, and the end.
    starts: Vec<u64>,
}

impl Code {
    /// Encodes the steps one by one. `encode` gets a step and how far its label is
    /// from its own beginning. The length of its answer must not depend on the
    /// latter.
    #[cfg_attr(
        all(not(test), not(any(target_arch = "x86_64", target_arch = "aarch64"))),
        expect(dead_code, reason = "there is no guest code to use it")
    )]
    pub(super) fn assemble(
        ops: &[Op],
        encode: impl Fn(Op, i64) -> Vec<u8>,
    ) -> Result<Self, String> {
        let mut starts = vec![0];
        let mut end = 0;
        for op in ops {
            end += encode(*op, 0).len() as u64;
            starts.push(end);
        }
        let mut bytes = Vec::new();
        for (number, op) in ops.iter().enumerate() {
            let distance = match op.target() {
                Some(label) => {
                    let there = starts[step_at(ops, label)?];
                    there.cast_signed() - starts[number].cast_signed()
                }
                None => 0,
            };
            bytes.extend(encode(*op, distance));
        }
        Ok(Self { bytes, starts })
    }

    /// The instructions' bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The offset of the step after the one at `offset`.
    pub fn after(&self, offset: u64) -> Option<u64> {
        let here = self.starts.binary_search(&offset).ok()?;
        let later = self.starts[here..].iter().find(|start| **start > offset);
        later.copied()
    }
}

#[cfg(test)]
mod tests {
    use super::{Code, Op, Reg};

    /// Labels have no bytes, and every other step has its distance.
    fn distances(ops: &[Op]) -> Result<Code, String> {
        Code::assemble(ops, |op, distance| match op {
            Op::Label(_) => Vec::new(),
            Op::Copy(..) => vec![0; 3],
            _ => vec![distance.cast_unsigned().to_le_bytes()[0]],
        })
    }

    #[test]
    fn jumps_know_how_far_their_labels_are() {
        let code = distances(&[
            Op::Label("back"),
            Op::Copy(Reg::R0, Reg::R1),
            Op::Jump("back"),
            Op::Jump("on"),
            Op::Copy(Reg::R0, Reg::R1),
            Op::Label("on"),
            Op::Jump("on"),
        ]);
        let code = code.unwrap();
        assert_eq!(code.bytes(), [0, 0, 0, 0xfd, 4, 0, 0, 0, 0]);
        let steps: Vec<_> = (0..10).map(|offset| code.after(offset)).collect();
        let expected = [
            Some(3),
            None,
            None,
            Some(4),
            Some(5),
            Some(8),
            None,
            None,
            Some(9),
            None,
        ];
        assert_eq!(steps, expected);
    }

    #[test]
    fn a_jump_to_nowhere_is_an_error() {
        let error = distances(&[Op::Jump("nowhere")]).unwrap_err();
        assert!(error.contains("'nowhere'"), "{error}");
    }
}
