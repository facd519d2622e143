// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! An encoder for the A64 instructions that guests in tests consist of (Arm
//! Architecture Reference Manual, part C). Every function returns instruction
//! words. They take operands as the manual's assembler syntax does, and panic if
//! an operand does not fit its field.

/// A general-purpose register, X0 to X30 by number. 31 is the zero register, or
/// the stack pointer where an instruction has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct X(pub u8);

impl X {
    /// The zero register.
    pub const ZR: Self = Self(31);

    fn field(self, shift: u32) -> u32 {
        assert!(self.0 < 32, "{self:?} is no register");
        u32::from(self.0) << shift
    }
}

/// A system register, by the fields of its encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SystemRegister(u16);

impl SystemRegister {
    /// `S<op0>_<op1>_C<n>_C<m>_<op2>`.
    pub const fn new(op0: u16, op1: u16, n: u16, m: u16, op2: u16) -> Self {
        assert!(op0 < 4 && op1 < 8 && n < 16 && m < 16 && op2 < 8);
        Self(op0 << 14 | op1 << 11 | n << 7 | m << 3 | op2)
    }

    /// The encoding's 16 bits: op0, op1, CRn, CRm and op2, the latter lowest.
    pub const fn bits(self) -> u16 {
        self.0
    }
}

/// What a conditional branch depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Condition {
    /// Equal.
    Eq = 0,
    /// Not equal.
    Ne = 1,
    /// Unsigned: higher or same.
    Hs = 2,
    /// Unsigned: lower.
    Lo = 3,
    /// Unsigned: higher.
    Hi = 8,
    /// Unsigned: lower or same.
    Ls = 9,
    /// Signed: greater or equal.
    Ge = 10,
    /// Signed: less.
    Lt = 11,
    /// Signed: greater.
    Gt = 12,
    /// Signed: less or equal.
    Le = 13,
}

/// The bytes of some instructions.
pub fn bytes(words: impl IntoIterator<Item = u32>) -> Vec<u8> {
    words.into_iter().flat_map(u32::to_le_bytes).collect()
}

/// `movz rd, #value, lsl #16*half`: this half-word, and zeros in the others.
pub fn movz(rd: X, value: u16, half: u32) -> u32 {
    0xd280_0000 | unsigned(half, 2) << 21 | u32::from(value) << 5 | rd.field(0)
}

/// `movk rd, #value, lsl #16*half`: this half-word, and the others as before.
pub fn movk(rd: X, value: u16, half: u32) -> u32 {
    0xf280_0000 | unsigned(half, 2) << 21 | u32::from(value) << 5 | rd.field(0)
}

/// `rd = value`, always in four instructions.
pub fn load_immediate(rd: X, value: u64) -> [u32; 4] {
    let half = |number: usize| {
        let bytes = value.to_le_bytes();
        u16::from_le_bytes([bytes[2 * number], bytes[2 * number + 1]])
    };
    [
        movz(rd, half(0), 0),
        movk(rd, half(1), 1),
        movk(rd, half(2), 2),
        movk(rd, half(3), 3),
    ]
}

/// `mov rd, rm`.
pub fn mov(rd: X, rm: X) -> u32 {
    orr(rd, X::ZR, rm)
}

/// `ldr[b|h] rt, [rn, #offset]`: loads 1, 2, 4 or 8 bytes, and zero-extends them.
/// The offset is a multiple of the size.
pub fn ldr(size: usize, rt: X, rn: X, offset: u32) -> u32 {
    0x3940_0000 | sized(size, rt, rn) | scaled(size, offset)
}

/// `str[b|h] rt, [rn, #offset]`: stores the lowest 1, 2, 4 or 8 bytes.
pub fn str(size: usize, rt: X, rn: X, offset: u32) -> u32 {
    0x3900_0000 | sized(size, rt, rn) | scaled(size, offset)
}

/// `ldar[b|h] rt, [rn]`: later accesses stay behind it.
pub fn ldar(size: usize, rt: X, rn: X) -> u32 {
    0x08df_fc00 | sized(size, rt, rn)
}

/// `stlr[b|h] rt, [rn]`: earlier accesses stay before it.
pub fn stlr(size: usize, rt: X, rn: X) -> u32 {
    0x089f_fc00 | sized(size, rt, rn)
}

/// `ldp rt, second, [rn]`: loads 16 bytes. A processor does not describe such an
/// access to the hypervisor.
pub fn ldp(rt: X, second: X, rn: X) -> u32 {
    0xa940_0000 | second.field(10) | rn.field(5) | rt.field(0)
}

/// `add rd, rn, #value`.
pub fn add_immediate(rd: X, rn: X, value: u32) -> u32 {
    0x9100_0000 | unsigned(value, 12) << 10 | rn.field(5) | rd.field(0)
}

/// `sub rd, rn, #value`.
pub fn sub_immediate(rd: X, rn: X, value: u32) -> u32 {
    0xd100_0000 | unsigned(value, 12) << 10 | rn.field(5) | rd.field(0)
}

/// `subs rd, rn, #value`: sets the flags.
pub fn subs_immediate(rd: X, rn: X, value: u32) -> u32 {
    0xf100_0000 | unsigned(value, 12) << 10 | rn.field(5) | rd.field(0)
}

/// `cmp rn, #value`.
pub fn cmp_immediate(rn: X, value: u32) -> u32 {
    subs_immediate(X::ZR, rn, value)
}

/// `add rd, rn, rm`.
pub fn add(rd: X, rn: X, rm: X) -> u32 {
    0x8b00_0000 | three(rd, rn, rm)
}

/// `sub rd, rn, rm`.
pub fn sub(rd: X, rn: X, rm: X) -> u32 {
    0xcb00_0000 | three(rd, rn, rm)
}

/// `cmp rn, rm`.
pub fn cmp(rn: X, rm: X) -> u32 {
    0xeb00_0000 | three(X::ZR, rn, rm)
}

/// `and rd, rn, rm`.
pub fn and(rd: X, rn: X, rm: X) -> u32 {
    0x8a00_0000 | three(rd, rn, rm)
}

/// `orr rd, rn, rm`.
pub fn orr(rd: X, rn: X, rm: X) -> u32 {
    0xaa00_0000 | three(rd, rn, rm)
}

/// `eor rd, rn, rm`.
pub fn eor(rd: X, rn: X, rm: X) -> u32 {
    0xca00_0000 | three(rd, rn, rm)
}

/// `mul rd, rn, rm`.
pub fn mul(rd: X, rn: X, rm: X) -> u32 {
    0x9b00_7c00 | three(rd, rn, rm)
}

/// `lsl rd, rn, #by`, by 1 to 63 bits.
pub fn lsl_immediate(rd: X, rn: X, by: u32) -> u32 {
    assert!((1..64).contains(&by), "no shift by {by}");
    0xd340_0000 | (64 - by) << 16 | (63 - by) << 10 | rn.field(5) | rd.field(0)
}

/// `lsr rd, rn, #by`, by 0 to 63 bits.
pub fn lsr_immediate(rd: X, rn: X, by: u32) -> u32 {
    0xd340_fc00 | unsigned(by, 6) << 16 | rn.field(5) | rd.field(0)
}

/// `lsr rd, rn, rm`, by the lowest six bits of `rm`.
pub fn lsr(rd: X, rn: X, rm: X) -> u32 {
    0x9ac0_2400 | three(rd, rn, rm)
}

/// `b`, by this many instructions from itself.
pub fn b(by: i32) -> u32 {
    0x1400_0000 | signed(by, 26)
}

/// `b.condition`, by this many instructions from itself.
pub fn b_if(condition: Condition, by: i32) -> u32 {
    0x5400_0000 | signed(by, 19) << 5 | u32::from(condition as u8)
}

/// `cbz rt`: branches if the register is zero.
pub fn cbz(rt: X, by: i32) -> u32 {
    0xb400_0000 | signed(by, 19) << 5 | rt.field(0)
}

/// `cbnz rt`: branches if the register is not zero.
pub fn cbnz(rt: X, by: i32) -> u32 {
    0xb500_0000 | signed(by, 19) << 5 | rt.field(0)
}

/// `tbz rt, #bit`: branches if that bit of the register is zero.
pub fn tbz(rt: X, bit: u32, by: i32) -> u32 {
    0x3600_0000 | bit_field(bit) | signed(by, 14) << 5 | rt.field(0)
}

/// `tbnz rt, #bit`: branches if that bit of the register is set.
pub fn tbnz(rt: X, bit: u32, by: i32) -> u32 {
    0x3700_0000 | bit_field(bit) | signed(by, 14) << 5 | rt.field(0)
}

/// `br rn`.
pub fn br(rn: X) -> u32 {
    0xd61f_0000 | rn.field(5)
}

/// `blr rn`: a call, which leaves the address behind it in X30.
pub fn blr(rn: X) -> u32 {
    0xd63f_0000 | rn.field(5)
}

/// `ret`: branches to X30.
pub const RET: u32 = 0xd65f_03c0;

/// `brk #number`: a breakpoint.
pub fn brk(number: u16) -> u32 {
    0xd420_0000 | u32::from(number) << 5
}

/// `hvc #number`: a call of the hypervisor.
pub fn hvc(number: u16) -> u32 {
    0xd400_0002 | u32::from(number) << 5
}

/// `mrs rt, register`.
pub fn mrs(rt: X, register: SystemRegister) -> u32 {
    0xd530_0000 | moved(register, rt)
}

/// `msr register, rt`.
pub fn msr(register: SystemRegister, rt: X) -> u32 {
    0xd510_0000 | moved(register, rt)
}

/// `wfi`: waits for an interrupt.
pub const WFI: u32 = 0xd503_207f;
/// `yield`: a hint that the processor is in a loop of waiting.
pub const YIELD: u32 = 0xd503_203f;
/// `nop`.
pub const NOP: u32 = 0xd503_201f;
/// `isb`: later instructions are fetched again.
pub const ISB: u32 = 0xd503_3fdf;
/// `dsb sy`: waits for all earlier accesses.
pub const DSB_SY: u32 = 0xd503_3f9f;
/// `dmb ish`: orders accesses, as other processors see them.
pub const DMB_ISH: u32 = 0xd503_3bbf;
/// `dmb ishld`: the same for earlier loads, before later loads and stores.
pub const DMB_ISHLD: u32 = 0xd503_39bf;

/// The fields of an instruction with three registers.
fn three(rd: X, rn: X, rm: X) -> u32 {
    rm.field(16) | rn.field(5) | rd.field(0)
}

/// The fields of an access of this size.
fn sized(size: usize, rt: X, rn: X) -> u32 {
    assert!(
        matches!(size, 1 | 2 | 4 | 8),
        "no instruction accesses {size} bytes"
    );
    size.trailing_zeros() << 30 | rn.field(5) | rt.field(0)
}

/// The fields of the number of a bit.
fn bit_field(bit: u32) -> u32 {
    let bit = unsigned(bit, 6);
    bit >> 5 << 31 | (bit & 31) << 19
}

fn scaled(size: usize, offset: u32) -> u32 {
    let shift = size.trailing_zeros();
    assert_eq!(offset >> shift << shift, offset, "no multiple of {size}");
    unsigned(offset >> shift, 12) << 10
}

/// A move from or to a system register. The instruction has only the lower bit of
/// op0, which is 2 or 3.
fn moved(register: SystemRegister, rt: X) -> u32 {
    assert!(register.0 >> 15 == 1, "{register:?} cannot be moved");
    u32::from(register.0 & 0x7fff) << 5 | rt.field(0)
}

fn unsigned(value: u32, bits: u32) -> u32 {
    assert!(value >> bits == 0, "{value:#x} has more than {bits} bits");
    value
}

fn signed(value: i32, bits: u32) -> u32 {
    let limit = 1 << (bits - 1);
    assert!(
        (-limit..limit).contains(&value),
        "{value} has more than {bits} bits"
    );
    value.cast_unsigned() & ((1 << bits) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ESR_EL1: SystemRegister = SystemRegister::new(3, 0, 5, 2, 0);
    const VBAR_EL1: SystemRegister = SystemRegister::new(3, 0, 12, 0, 0);
    const CNTVCT_EL0: SystemRegister = SystemRegister::new(3, 3, 14, 0, 2);

    /// As the GNU assembler encodes and its disassembler prints them.
    #[test]
    fn instructions_are_encoded_as_an_assembler_does() {
        let x = X;
        for (word, expected, text) in [
            (movz(x(0), 0x4000, 1), 0xd2a8_0000, "mov x0, #0x40000000"),
            (
                movk(x(17), 0xffff, 3),
                0xf2ff_fff1,
                "movk x17, #0xffff, lsl #48",
            ),
            (movz(X::ZR, 0, 0), 0xd280_001f, "mov xzr, #0x0"),
            (ldr(1, x(0), x(1), 0), 0x3940_0020, "ldrb w0, [x1]"),
            (ldr(2, x(2), x(3), 2), 0x7940_0462, "ldrh w2, [x3, #2]"),
            (ldr(4, x(4), x(5), 4), 0xb940_04a4, "ldr w4, [x5, #4]"),
            (
                ldr(8, x(6), x(7), 32760),
                0xf97f_fce6,
                "ldr x6, [x7, #32760]",
            ),
            (
                str(1, x(8), x(9), 4095),
                0x393f_fd28,
                "strb w8, [x9, #4095]",
            ),
            (str(2, x(10), x(11), 0), 0x7900_016a, "strh w10, [x11]"),
            (str(4, x(12), x(13), 0), 0xb900_01ac, "str w12, [x13]"),
            (str(8, x(30), x(29), 8), 0xf900_07be, "str x30, [x29, #8]"),
            (ldar(1, x(0), x(1)), 0x08df_fc20, "ldarb w0, [x1]"),
            (ldar(2, x(2), x(3)), 0x48df_fc62, "ldarh w2, [x3]"),
            (ldar(4, x(4), x(5)), 0x88df_fca4, "ldar w4, [x5]"),
            (ldar(8, x(6), x(7)), 0xc8df_fce6, "ldar x6, [x7]"),
            (stlr(1, x(8), x(9)), 0x089f_fd28, "stlrb w8, [x9]"),
            (stlr(8, x(14), x(15)), 0xc89f_fdee, "stlr x14, [x15]"),
            (ldp(x(0), x(1), x(2)), 0xa940_0440, "ldp x0, x1, [x2]"),
            (
                add_immediate(x(2), x(3), 4095),
                0x913f_fc62,
                "add x2, x3, #0xfff",
            ),
            (
                sub_immediate(x(4), x(5), 16),
                0xd100_40a4,
                "sub x4, x5, #0x10",
            ),
            (
                subs_immediate(x(6), x(7), 1),
                0xf100_04e6,
                "subs x6, x7, #0x1",
            ),
            (cmp_immediate(x(8), 7), 0xf100_1d1f, "cmp x8, #0x7"),
            (add(x(0), x(1), x(2)), 0x8b02_0020, "add x0, x1, x2"),
            (sub(x(3), x(4), x(5)), 0xcb05_0083, "sub x3, x4, x5"),
            (cmp(x(9), x(10)), 0xeb0a_013f, "cmp x9, x10"),
            (and(x(0), x(1), x(2)), 0x8a02_0020, "and x0, x1, x2"),
            (orr(x(3), x(4), x(5)), 0xaa05_0083, "orr x3, x4, x5"),
            (eor(x(6), x(7), x(8)), 0xca08_00e6, "eor x6, x7, x8"),
            (mov(x(9), x(10)), 0xaa0a_03e9, "mov x9, x10"),
            (mul(x(11), x(12), x(13)), 0x9b0d_7d8b, "mul x11, x12, x13"),
            (lsl_immediate(x(1), x(2), 3), 0xd37d_f041, "lsl x1, x2, #3"),
            (
                lsl_immediate(x(3), x(4), 63),
                0xd341_0083,
                "lsl x3, x4, #63",
            ),
            (
                lsr_immediate(x(5), x(6), 60),
                0xd37c_fcc5,
                "lsr x5, x6, #60",
            ),
            (lsr_immediate(x(7), x(8), 1), 0xd341_fd07, "lsr x7, x8, #1"),
            (lsr(x(9), x(10), x(11)), 0x9acb_2549, "lsr x9, x10, x11"),
            (b(0), 0x1400_0000, "b 0"),
            (b(2), 0x1400_0002, "b +8"),
            (b(-2), 0x17ff_fffe, "b -8"),
            (b_if(Condition::Eq, 2), 0x5400_0040, "b.eq +8"),
            (b_if(Condition::Ne, -1), 0x54ff_ffe1, "b.ne -4"),
            (b_if(Condition::Hs, 0), 0x5400_0002, "b.cs 0"),
            (b_if(Condition::Lo, 0), 0x5400_0003, "b.cc 0"),
            (b_if(Condition::Hi, 0), 0x5400_0008, "b.hi 0"),
            (b_if(Condition::Ls, 0), 0x5400_0009, "b.ls 0"),
            (b_if(Condition::Ge, 0), 0x5400_000a, "b.ge 0"),
            (b_if(Condition::Lt, 0), 0x5400_000b, "b.lt 0"),
            (b_if(Condition::Gt, 0), 0x5400_000c, "b.gt 0"),
            (b_if(Condition::Le, 0), 0x5400_000d, "b.le 0"),
            (cbz(x(3), 3), 0xb400_0063, "cbz x3, +12"),
            (cbnz(x(4), -3), 0xb5ff_ffa4, "cbnz x4, -12"),
            (tbz(x(5), 61, 2), 0xb6e8_0045, "tbz x5, #61, +8"),
            (tbnz(x(6), 0, -1), 0x3707_ffe6, "tbnz w6, #0, -4"),
            (blr(x(17)), 0xd63f_0220, "blr x17"),
            (br(x(16)), 0xd61f_0200, "br x16"),
            (brk(0), 0xd420_0000, "brk #0x0"),
            (brk(0xbeef), 0xd437_dde0, "brk #0xbeef"),
            (hvc(1), 0xd400_0022, "hvc #0x1"),
            (mrs(x(3), ESR_EL1), 0xd538_5203, "mrs x3, esr_el1"),
            (msr(VBAR_EL1, x(4)), 0xd518_c004, "msr vbar_el1, x4"),
            (mrs(x(0), CNTVCT_EL0), 0xd53b_e040, "mrs x0, cntvct_el0"),
        ] {
            assert_eq!(word, expected, "{text}: {word:#x}");
        }
    }

    #[test]
    fn four_instructions_load_any_value() {
        for value in [0, 1, 0xffff, 0x1234_5678_9abc_def0, u64::MAX] {
            let mut register = 0_u64;
            for (number, word) in load_immediate(X(7), value).into_iter().enumerate() {
                let half = word >> 21 & 3;
                assert_eq!((half as usize, word & 0x1f), (number, 7));
                let keep = match word >> 29 {
                    0b110 => 0,
                    0b111 => register & !(0xffff << (16 * half)),
                    other => panic!("{other:#b} is no wide move"),
                };
                register = keep | u64::from(word >> 5 & 0xffff) << (16 * half);
            }
            assert_eq!(register, value);
        }
    }

    #[test]
    fn operands_that_do_not_fit_are_refused() {
        let refused = |encode: fn() -> u32| std::panic::catch_unwind(encode).is_err();
        assert!(refused(|| b(1 << 25)));
        assert!(refused(|| b_if(Condition::Eq, -(1 << 18) - 1)));
        assert!(refused(|| add_immediate(X(0), X(0), 4096)));
        assert!(refused(|| ldr(8, X(0), X(0), 4)));
        assert!(refused(|| ldr(3, X(0), X(0), 0)));
        assert!(refused(|| movz(X(0), 0, 4)));
        assert!(refused(|| br(X(32))));
        assert!(refused(|| lsl_immediate(X(0), X(0), 0)));
        assert!(refused(|| lsr_immediate(X(0), X(0), 64)));
        assert!(refused(|| tbz(X(0), 64, 0)));
        assert!(refused(|| mrs(X(0), SystemRegister::new(1, 0, 0, 0, 0))));
        assert!(!refused(|| b(-(1 << 25))));
    }
}
