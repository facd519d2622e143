// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The address of a PCI device.

use core::fmt;
use core::str::FromStr;

/// Domain, bus, device and function: `0000:01:00.0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PciAddress {
    domain: u32,
    bus: u8,
    device: u8,
    function: u8,
}

impl PciAddress {
    /// The function with these numbers; `None` if `device` is above 31 or `function` above 7.
    ///
    /// A domain has more than 16 bits where it is behind a bridge that Linux numbers itself.
    pub const fn new(domain: u32, bus: u8, device: u8, function: u8) -> Option<Self> {
        if device > 31 || function > 7 {
            return None;
        }
        Some(Self {
            domain,
            bus,
            device,
            function,
        })
    }
}

impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:04x}:{:02x}:{:02x}.{}",
            self.domain, self.bus, self.device, self.function
        )
    }
}

/// A text that is no PCI address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a PCI address like 0000:01:00.0")]
pub struct ParseAddressError;

/// As sysfs names a device, with its domain.
impl FromStr for PciAddress {
    type Err = ParseAddressError;

    fn from_str(text: &str) -> Result<Self, ParseAddressError> {
        let parse = || {
            let (domain, rest) = text.split_once(':')?;
            let (bus, rest) = rest.split_once(':')?;
            let (device, function) = rest.split_once('.')?;
            let digits = |text: &str, least: usize, most: usize| {
                let is_hex = text.bytes().all(|byte| byte.is_ascii_hexdigit());
                let fits = (least..=most).contains(&text.len());
                u32::from_str_radix(text, 16)
                    .ok()
                    .filter(|_| is_hex && fits)
            };
            let byte = |text, len| u8::try_from(digits(text, len, len)?).ok();
            Self::new(
                digits(domain, 4, 8)?,
                byte(bus, 2)?,
                byte(device, 2)?,
                byte(function, 1)?,
            )
        };
        parse().ok_or(ParseAddressError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_as_sysfs_writes_it() {
        for text in ["0000:00:00.0", "0000:01:1f.7", "10000:e1:00.0"] {
            let address: PciAddress = text.parse().unwrap();
            assert_eq!(address.to_string(), text);
        }
        for text in [
            "",
            "01:00.0",
            "0000:01:00",
            "0000:01:20.0",
            "0000:01:00.8",
            "0000:+1:00.0",
            "000000000:01:00.0",
            "0000:01:00.0 ",
        ] {
            assert_eq!(text.parse::<PciAddress>(), Err(ParseAddressError), "{text}");
        }
    }
}
