// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Numbers in machine files: `4096`, `0x1000`, `"0xffff_ffff_0000_0000"`,
//! `"64K"`, `"16E"`. TOML itself promises integers below 2^63 only; its reader
//! goes on to 2^64.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, Visitor};

/// A number from 0 to 2^64: addresses, values and sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Number(pub(super) u128);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Words;
        impl Visitor<'_> for Words {
            type Value = Number;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number, such as 4096, 0x1000, \"64K\" or \"0xffff_ffff_0000_0000\"")
            }

            fn visit_i64<E: Error>(self, n: i64) -> Result<Number, E> {
                u128::try_from(n)
                    .map(Number)
                    .map_err(|_| E::custom(format!("{n} is negative")))
            }

            fn visit_u64<E: Error>(self, n: u64) -> Result<Number, E> {
                Ok(Number(n.into()))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Number, E> {
                read(text).map(Number).ok_or_else(|| {
                    E::custom(format!(
                        "'{text}' is no number from 0 to 2^64, such as \"64K\""
                    ))
                })
            }
        }
        deserializer.deserialize_any(Words)
    }
}

/// Reads a number with an optional unit. `None` if the text is none.
pub(crate) fn read(text: &str) -> Option<u128> {
    let text = text.replace('_', "");
    let number = match text.strip_prefix("0x") {
        Some(hex) if !hex.starts_with('+') => u128::from_str_radix(hex, 16).ok()?,
        Some(_) => return None,
        None => {
            let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
            let number: u128 = match digits.starts_with('+') {
                true => return None,
                false => digits.parse().ok()?,
            };
            let shift = match &text[digits.len()..] {
                "" => 0,
                "K" | "KiB" => 10,
                "M" | "MiB" => 20,
                "G" | "GiB" => 30,
                "T" | "TiB" => 40,
                "P" | "PiB" => 50,
                "E" | "EiB" => 60,
                _ => return None,
            };
            number.checked_mul(1 << shift)?
        }
    };
    (number <= 1 << 64).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::read;

    #[test]
    fn numbers_reach_from_0_to_2_to_the_64() {
        assert_eq!(read("0"), Some(0));
        assert_eq!(read("64K"), Some(0x1_0000));
        assert_eq!(read("16EiB"), Some(1 << 64));
        assert_eq!(read("0xffff_ffff_ffff_ffff"), Some(u64::MAX.into()));
        for bad in [
            "", "K", "-1", "+1", "0x+1", "0x", "17E", "64KB", "64 K", "1.5M", "0x1K",
        ] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }
}
