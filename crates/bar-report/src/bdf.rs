// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The address of a PCI device.

use std::fmt;
use std::str::FromStr;

/// Domain, bus, device and function, as in `0000:01:00.0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Bdf {
    domain: u32,
    bus: u8,
    device: u8,
    function: u8,
}

/// The error for a text that is not an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a PCI address is written as in 01:00.0 or 0000:01:00.0")]
pub struct BdfError;

/// The domain is optional and defaults to 0, as in `lspci`.
impl FromStr for Bdf {
    type Err = BdfError;

    fn from_str(text: &str) -> Result<Self, BdfError> {
        parse(text).ok_or(BdfError)
    }
}

fn parse(text: &str) -> Option<Bdf> {
    let (front, function) = text.split_once('.')?;
    let (front, device) = front.rsplit_once(':')?;
    let (domain, bus) = front.rsplit_once(':').unwrap_or(("0000", front));
    let bdf = Bdf {
        domain: hex(domain, 4..=8)?,
        bus: u8::try_from(hex(bus, 2..=2)?).ok()?,
        device: u8::try_from(hex(device, 2..=2)?).ok()?,
        function: u8::try_from(hex(function, 1..=1)?).ok()?,
    };
    (bdf.device < 32 && bdf.function < 8).then_some(bdf)
}

impl Bdf {
    /// Returns the same bus, device and function in the domain of `other`.
    pub(crate) fn in_domain_of(self, other: Self) -> Self {
        Self {
            domain: other.domain,
            ..self
        }
    }
}

/// Accepts digits only: `from_str_radix` also accepts a sign.
fn hex(text: &str, digits: std::ops::RangeInclusive<usize>) -> Option<u32> {
    let is_hex = text.bytes().all(|byte| byte.is_ascii_hexdigit());
    match is_hex && digits.contains(&text.len()) {
        true => u32::from_str_radix(text, 16).ok(),
        false => None,
    }
}

/// Includes the domain, as in sysfs.
impl fmt::Display for Bdf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            domain,
            bus,
            device,
            function,
        } = self;
        write!(f, "{domain:04x}:{bus:02x}:{device:02x}.{function:x}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_the_same_with_and_without_its_domain() {
        let short: Bdf = "0a:1F.7".parse().unwrap();
        assert_eq!(short.to_string(), "0000:0a:1f.7");
        assert_eq!("0000:0a:1f.7".parse(), Ok(short));
        let hyper_v: Bdf = "10000:00:00.0".parse().unwrap();
        assert_eq!(hyper_v.to_string(), "10000:00:00.0");
    }

    #[test]
    fn text_that_is_not_an_address_is_refused() {
        for text in [
            "",
            "01:00",
            "01.0",
            "1:00.0",
            "01:20.0",
            "01:00.8",
            "01:00.0 ",
            "+1:00.0",
            "01:00.00",
            "../..:00:00.0",
            "0000:01:00.0/..",
            "é1:00.0",
            "000:01:00.0",
            "x:y.z",
        ] {
            assert_eq!(text.parse::<Bdf>(), Err(BdfError), "{text}");
        }
    }
}
