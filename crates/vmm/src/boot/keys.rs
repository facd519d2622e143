// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Which keys are for the guest, and which for the VMM. Pure.

const CTRL_A: u8 = 1;

/// Finds the VMM's commands among the user's keys: Ctrl-A and a letter.
#[derive(Debug, Default)]
pub struct KeyDecoder {
    /// Whether the last byte was the Ctrl-A of a command.
    escaped: bool,
}

/// What keys mean.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Keys {
    /// The bytes for the guest.
    pub bytes: Vec<u8>,
    /// The user asked for help: Ctrl-A H.
    pub help: bool,
    /// The user left: Ctrl-A X. The bytes after it are for no one.
    pub left: bool,
}

impl KeyDecoder {
    /// Decodes the next bytes. A command may be split between calls.
    pub fn decode(&mut self, input: &[u8]) -> Keys {
        let mut keys = Keys::default();
        for &byte in input {
            if !std::mem::take(&mut self.escaped) {
                match byte {
                    CTRL_A => self.escaped = true,
                    byte => keys.bytes.push(byte),
                }
                continue;
            }
            match byte {
                b'x' | b'X' => {
                    keys.left = true;
                    break;
                }
                b'h' | b'H' => keys.help = true,
                b'a' | b'A' | CTRL_A => keys.bytes.push(CTRL_A),
                byte => keys.bytes.extend([CTRL_A, byte]),
            }
        }
        keys
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The keys are the same however the input is split into two reads.
    #[track_caller]
    fn decodes(input: &[u8], bytes: &[u8], help: bool, left: bool) {
        for split in 0..=input.len() {
            let mut decoder = KeyDecoder::default();
            let first = decoder.decode(&input[..split]);
            let second = match first.left {
                true => Keys::default(),
                false => decoder.decode(&input[split..]),
            };
            let all = [&first.bytes[..], &second.bytes].concat();
            assert_eq!(all, bytes, "split at {split}");
            assert_eq!(first.help || second.help, help, "split at {split}");
            assert_eq!(first.left || second.left, left, "split at {split}");
        }
    }

    #[test]
    fn ordinary_keys_are_for_the_guest() {
        decodes(
            b"echo \xff\x00\x03\x1b[Ax\r",
            b"echo \xff\x00\x03\x1b[Ax\r",
            false,
            false,
        );
    }

    #[test]
    fn ctrl_a_x_leaves_and_nothing_after_it_is_sent() {
        decodes(b"ab\x01xcd", b"ab", false, true);
        decodes(b"\x01X\x01h", b"", false, true);
    }

    #[test]
    fn ctrl_a_twice_or_with_a_sends_one() {
        decodes(b"\x01\x01x", b"\x01x", false, false);
        decodes(b"\x01a\x01A.", b"\x01\x01.", false, false);
        decodes(b"\x01\x01\x01x", b"\x01", false, true);
    }

    #[test]
    fn ctrl_a_h_asks_for_help() {
        decodes(b"a\x01hb\x01H", b"ab", true, false);
    }

    #[test]
    fn other_keys_after_ctrl_a_are_sent_with_it() {
        decodes(b"\x01c\x01\xe4", b"\x01c\x01\xe4", false, false);
    }
}
