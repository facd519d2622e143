// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Programs as x86-64 instructions (Intel SDM volume 2).

use crate::vcpu::program::{Code, Op, Reg};

/// RBP, the register in which functions find the address to return to.
const LINK: u8 = 5;
/// The conditions of a jump: below or carry, the contrary, equal, and not equal.
const BELOW: u8 = 0x82;
const NOT_BELOW: u8 = 0x83;
const EQUAL: u8 = 0x84;
const NOT_EQUAL: u8 = 0x85;

/// The instructions of a program.
///
/// # Errors
/// A label is missing.
pub fn compile(ops: &[Op]) -> Result<Code, String> {
    Code::assemble(ops, encode)
}

/// The instructions of one step whose label is `distance` away.
fn encode(op: Op, distance: i64) -> Vec<u8> {
    let jump_after = |mut test: Vec<u8>, condition: u8| {
        test.extend([0x0f, condition]);
        relative(test, distance)
    };
    match op {
        Op::Label(_) => Vec::new(),
        // movabs
        Op::Constant(a, value) => {
            let opcode = 0xb8 | number(a) & 7;
            let mut bytes = vec![rex(0, number(a)), opcode];
            bytes.extend(value.to_le_bytes());
            bytes
        }
        Op::Copy(a, b) => two(&[0x89], number(b), a),
        Op::Add(a, b) => two(&[0x01], number(b), a),
        Op::Subtract(a, b) => two(&[0x29], number(b), a),
        Op::And(a, b) => two(&[0x21], number(b), a),
        Op::Or(a, b) => two(&[0x09], number(b), a),
        // imul, whose destination is in the other field.
        Op::Multiply(a, b) => two(&[0x0f, 0xaf], number(a), b),
        // add, with an immediate
        Op::Increase(a, by) => with(two(&[0x81], 0, a), &u32::from(by).to_le_bytes()),
        Op::ShiftLeft(a, by) => with(two(&[0xc1], 4, a), &[by]),
        Op::ShiftRight(a, by) => with(two(&[0xc1], 5, a), &[by]),
        Op::Load(a, base, offset) => access(0x8b, a, base, offset),
        Op::Store(a, base, offset) => access(0x89, a, base, offset),
        Op::Jump(_) => relative(vec![0xe9], distance),
        Op::JumpIfBelow(a, b, _) => jump_after(compare(a, b), BELOW),
        Op::JumpUnlessBelow(a, b, _) => jump_after(compare(a, b), NOT_BELOW),
        Op::JumpIfEqual(a, b, _) => jump_after(compare(a, b), EQUAL),
        Op::JumpUnlessEqual(a, b, _) => jump_after(compare(a, b), NOT_EQUAL),
        Op::JumpIfBit(a, bit, _) => jump_after(test_bit(a, bit), BELOW),
        Op::JumpUnlessBit(a, bit, _) => jump_after(test_bit(a, bit), NOT_BELOW),
        // bt
        Op::JumpUnlessBitAt(a, b, _) => jump_after(two(&[0x0f, 0xa3], number(b), a), NOT_BELOW),
        // lea rbp, [rip + 3]; jmp a. No stack is needed.
        Op::Call(a) => with(vec![0x48, 0x8d, 0x2d, 3, 0, 0, 0], &two(&[0xff], 4, a)),
        // jmp rbp
        Op::Return => vec![0xff, 0xe0 | LINK],
        // mfence
        Op::Fence => vec![0x0f, 0xae, 0xf0],
        // The processor keeps the order of loads, and a vCPU leaves the guest
        // when a page is taken from it: no instruction fetched before is left.
        Op::FenceLoads | Op::FenceFetch => Vec::new(),
    }
}

/// An instruction with two registers, one of them in the field that may also be
/// part of the opcode.
fn two(opcode: &[u8], field: u8, operand: Reg) -> Vec<u8> {
    let operand = number(operand);
    let mut bytes = vec![rex(field, operand)];
    bytes.extend(opcode);
    bytes.push(0b1100_0000 | (field & 7) << 3 | operand & 7);
    bytes
}

/// A load or store at a register plus an offset.
fn access(opcode: u8, reg: Reg, base: Reg, offset: u16) -> Vec<u8> {
    let (reg, base) = (number(reg), number(base));
    let mut bytes = vec![rex(reg, base), opcode];
    bytes.push(0b1000_0000 | (reg & 7) << 3 | base & 7);
    // This register as the base needs another byte.
    if base & 7 == 0b100 {
        bytes.push(0x24);
    }
    with(bytes, &u32::from(offset).to_le_bytes())
}

/// cmp
fn compare(a: Reg, b: Reg) -> Vec<u8> {
    two(&[0x39], number(b), a)
}

/// bt, which copies the bit to the carry flag.
fn test_bit(a: Reg, bit: u8) -> Vec<u8> {
    with(two(&[0x0f, 0xba], 4, a), &[bit])
}

fn with(mut bytes: Vec<u8>, more: &[u8]) -> Vec<u8> {
    bytes.extend(more);
    bytes
}

/// Completes a jump, which counts from its own end.
fn relative(bytes: Vec<u8>, distance: i64) -> Vec<u8> {
    let end = i64::try_from(bytes.len() + 4).expect("a few");
    let distance = i32::try_from(distance - end).expect("a short program");
    with(bytes, &distance.to_le_bytes())
}

/// 64-bit operands, and the highest bits of two registers' numbers.
fn rex(reg: u8, operand: u8) -> u8 {
    0x48 | reg >> 3 << 2 | operand >> 3
}

/// The number of a register. RSP and RBP are left out.
fn number(reg: Reg) -> u8 {
    match reg as u8 {
        few @ 0..4 => few,
        more => more + 2,
    }
}

#[cfg(test)]
mod tests {
    use super::encode;
    use crate::vcpu::program::{Op, Reg};

    /// As the GNU assembler encodes them, but with offsets of four bytes.
    #[test]
    fn instructions_are_encoded_as_an_assembler_does() {
        use Reg::{R0, R2, R3, R4, R5, R8, R10, R11, R13};
        for (op, expected, text) in [
            (
                Op::Constant(R13, 0x0123_4567_89ab_cdef),
                &[0x49, 0xbf, 0xef, 0xcd, 0xab, 0x89, 0x67, 0x45, 0x23, 0x01][..],
                "movabs r15, 0x123456789abcdef",
            ),
            (Op::Copy(R0, R13), &[0x4c, 0x89, 0xf8], "mov rax, r15"),
            (Op::Add(R13, R3), &[0x49, 0x01, 0xdf], "add r15, rbx"),
            (
                Op::Multiply(R13, R2),
                &[0x4c, 0x0f, 0xaf, 0xfa],
                "imul r15, rdx",
            ),
            (
                Op::Increase(R8, 8),
                &[0x49, 0x81, 0xc2, 8, 0, 0, 0],
                "add r10, 8",
            ),
            (
                Op::ShiftRight(R13, 40),
                &[0x49, 0xc1, 0xef, 40],
                "shr r15, 40",
            ),
            (
                Op::Load(R0, R10, 16),
                &[0x49, 0x8b, 0x84, 0x24, 16, 0, 0, 0],
                "mov rax, [r12 + 16]",
            ),
            (
                Op::Store(R11, R5, 64),
                &[0x4c, 0x89, 0xaf, 64, 0, 0, 0],
                "mov [rdi + 64], r13",
            ),
            (
                Op::JumpIfEqual(R4, R8, ""),
                &[0x4c, 0x39, 0xd6, 0x0f, 0x84, 0xf7, 0, 0, 0],
                "cmp rsi, r10; je 0x100",
            ),
            (
                Op::JumpUnlessBit(R0, 61, ""),
                &[0x48, 0x0f, 0xba, 0xe0, 61, 0x0f, 0x83, 0xf5, 0, 0, 0],
                "bt rax, 61; jae 0x100",
            ),
            (
                Op::JumpUnlessBitAt(R0, R10, ""),
                &[0x4c, 0x0f, 0xa3, 0xe0, 0x0f, 0x83, 0xf6, 0, 0, 0],
                "bt rax, r12; jae 0x100",
            ),
            (Op::Jump(""), &[0xe9, 0xfb, 0, 0, 0], "jmp 0x100"),
        ] {
            assert_eq!(encode(op, 0x100), expected, "{text}");
        }
    }
}
