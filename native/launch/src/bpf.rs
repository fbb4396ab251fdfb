//! A few lines of classic BPF assembler, and the interpreter that the tests run programs with.

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Instruction {
    pub code: u16,
    pub jt: u8,
    pub jf: u8,
    pub k: u32,
}

pub const LOAD: u16 = 0x20;
pub const JUMP_EQUAL: u16 = 0x15;
pub const JUMP_GREATER: u16 = 0x25;
pub const JUMP_GREATER_EQUAL: u16 = 0x35;
pub const JUMP_SET: u16 = 0x45;
pub const AND: u16 = 0x54;
pub const RETURN: u16 = 0x06;

/// Byte offsets in `struct seccomp_data`.
pub const NUMBER: u32 = 0;
pub const ARCHITECTURE: u32 = 4;

/// Offset of the low half of argument `index`: the kernel takes flags, commands and families as 32-bit values, so
/// bits above must not change the answer (CVE-2019-10063).
pub const fn argument(index: u32) -> u32 {
    let low = if cfg!(target_endian = "big") { 4 } else { 0 };
    16 + 8 * index + low
}

/// Offset of the other half, for arguments that are pointers.
pub const fn high_half(index: u32) -> u32 {
    argument(index) ^ 4
}

pub fn load(offset: u32) -> Instruction {
    Instruction { code: LOAD, jt: 0, jf: 0, k: offset }
}

pub fn jump(code: u16, k: u32, jt: u8, jf: u8) -> Instruction {
    Instruction { code, jt, jf, k }
}

pub fn and(k: u32) -> Instruction {
    Instruction { code: AND, jt: 0, jf: 0, k }
}

pub fn answer(k: u32) -> Instruction {
    Instruction { code: RETURN, jt: 0, jf: 0, k }
}

#[cfg(test)]
pub fn interpret(program: &[Instruction], data: &[u8; 64]) -> u32 {
    let (mut at, mut accumulator) = (0usize, 0u32);
    loop {
        let Instruction { code, jt, jf, k } = program[at];
        at += 1;
        let mut branch = |holds: bool| at += usize::from(if holds { jt } else { jf });
        match code {
            LOAD => accumulator = u32::from_ne_bytes(data[k as usize..k as usize + 4].try_into().unwrap()),
            JUMP_EQUAL => branch(accumulator == k),
            JUMP_GREATER => branch(accumulator > k),
            JUMP_GREATER_EQUAL => branch(accumulator >= k),
            JUMP_SET => branch(accumulator & k != 0),
            AND => accumulator &= k,
            RETURN => return k,
            other => panic!("code {other:#x}"),
        }
    }
}
