// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Configuration space: BARs, the chain of capabilities, MSI-X.

use crate::common;

use common::bytes::Config;
use common::{in_bar, index};
use vfio_private::config::{BarRegister, Capability, ConfigError, ConfigSpace};
use vfio_private::{BarKind, InputError, Msix};

fn bars(config: &Config) -> Result<Vec<BarRegister>, ConfigError> {
    ConfigSpace::new(&config.0)?.bars()
}

fn msix(config: &Config) -> Result<Option<Msix>, ConfigError> {
    ConfigSpace::new(&config.0)?.msix()
}

fn memory(number: u8, address: u64) -> BarRegister {
    BarRegister {
        index: index(number),
        kind: BarKind::Memory,
        is_64bit: false,
        prefetchable: false,
        address,
        size: None,
    }
}

#[test]
fn bars_are_read_as_their_registers_have_them() {
    let config = Config::new(64)
        .bar(0, 0xfebc_0000)
        .bar(1, 0x0000_e021)
        // Prefetchable and 64 bits wide: the next register is its upper half, with what would
        // otherwise be an I/O BAR.
        .bar(2, 0x8000_000c)
        .bar(3, 0x0000_0041)
        .bar(5, 0xfeb0_0002);
    let io = BarRegister {
        kind: BarKind::Io,
        ..memory(1, 0xe020)
    };
    let wide = BarRegister {
        is_64bit: true,
        prefetchable: true,
        ..memory(2, 0x41_8000_0000)
    };
    let expected = vec![memory(0, 0xfebc_0000), io, wide, memory(5, 0xfeb0_0000)];
    assert_eq!(bars(&config), Ok(expected));
}

#[test]
fn a_zero_register_is_no_bar() {
    assert_eq!(bars(&Config::new(256)), Ok(vec![]));
}

#[test]
fn a_bar_register_that_cannot_be_is_named_by_its_offset() {
    let reserved = Config::new(64).bar(3, 0xfeb0_0006);
    let error = ConfigError::BarType {
        bar: index(3),
        offset: 0x1c,
    };
    assert_eq!(bars(&reserved), Err(error));
    let last = Config::new(64).bar(5, 0xfeb0_0004);
    let error = ConfigError::NoUpperHalf {
        bar: index(5),
        offset: 0x24,
    };
    assert_eq!(bars(&last), Err(error));
}

#[test]
fn only_the_three_lengths_of_configuration_space_are_taken() {
    for len in [64, 256, 4096] {
        assert!(ConfigSpace::new(&Config::new(len).0).is_ok());
    }
    for len in [0, 1, 63, 65, 128, 255, 257, 4095, 4097] {
        let bytes = vec![0; len];
        assert_eq!(ConfigSpace::new(&bytes), Err(ConfigError::Length { len }));
    }
}

#[test]
fn an_absent_device_and_a_bridge_are_no_devices_with_bars() {
    assert_eq!(ConfigSpace::new(&[0xff; 256]), Err(ConfigError::NoDevice));
    let bridge = Config::new(256).put(0x0e, &[0x81]);
    assert_eq!(
        ConfigSpace::new(&bridge.0),
        Err(ConfigError::HeaderType { kind: 1 })
    );
    let several_functions = Config::new(256).put(0x0e, &[0x80]);
    assert!(ConfigSpace::new(&several_functions.0).is_ok());
    // A virtual function has neither vendor nor device ID.
    let virtual_function = Config::new(256).put(0, &[0xff; 4]);
    assert!(ConfigSpace::new(&virtual_function.0).is_ok());
}

#[test]
fn the_chain_is_followed_in_its_own_order() {
    let config = Config::new(256).chain(&[(0x01, 0x80), (0x00, 0x40), (0x11, 0xf0)]);
    let chain = ConfigSpace::new(&config.0).unwrap().capabilities();
    let of = |(id, offset)| Capability { id, offset };
    assert_eq!(
        chain,
        Ok([(1, 0x80), (0, 0x40), (0x11, 0xf0)].map(of).to_vec())
    );
    // The low bits of a pointer are reserved.
    let config = config.put(0x34, &[0x83]);
    assert_eq!(ConfigSpace::new(&config.0).unwrap().capabilities(), chain);
    // Without the bit in the status register there is no chain.
    let config = config.put(0x06, &[0, 0]);
    assert_eq!(
        ConfigSpace::new(&config.0).unwrap().capabilities(),
        Ok(vec![])
    );
}

#[test]
fn a_chain_that_comes_back_to_itself_is_an_error() {
    let config = Config::new(256).chain(&[(1, 0x40), (5, 0x50), (0x10, 0x60), (9, 0x50)]);
    let error = ConfigError::Cycle {
        offset: 0x50,
        pointer: 0x50,
    };
    let itself = config.clone().put(0x51, &[0x50]);
    assert_eq!(msix(&itself), Err(error));
    let error = ConfigError::Cycle {
        offset: 0x60,
        pointer: 0x40,
    };
    let first = config.put(0x51, &[0x60]).put(0x61, &[0x40]);
    assert_eq!(msix(&first), Err(error));
}

#[test]
fn a_chain_that_leaves_its_space_is_an_error() {
    let into_header = Config::new(256)
        .chain(&[(1, 0x40), (5, 0x50)])
        .put(0x51, &[0x3c]);
    let error = ConfigError::PointerIntoHeader {
        offset: 0x51,
        pointer: 0x3c,
    };
    assert_eq!(msix(&into_header), Err(error));
    let nothing_there = Config::new(256).chain(&[(0xff, 0x40)]);
    let error = ConfigError::NoCapability { offset: 0x40 };
    assert_eq!(msix(&nothing_there), Err(error));
}

#[test]
fn a_header_alone_does_not_hide_that_there_are_capabilities() {
    let config = Config::new(64).put(0x06, &[0x10, 0]).put(0x34, &[0x40]);
    let error = ConfigError::Truncated {
        offset: 0x40,
        len: 64,
    };
    assert_eq!(msix(&config), Err(error));
    assert!(error.to_string().contains("only root"), "{error}");
}

#[test]
fn the_msix_capability_gives_both_structures_with_their_sizes() {
    for len in [256, 4096] {
        let config = Config::new(len)
            .chain(&[(0x01, 0x40), (0x11, 0xb0)])
            .msix(0xb0, 129, 0x5200, 0xd603);
        let structures = Msix {
            table: in_bar(0, 0x5200, 129 * 16),
            pba: in_bar(3, 0xd600, 24),
        };
        assert_eq!(msix(&config), Ok(Some(structures)));
    }
    // Enable and function mask are no part of the size.
    let config = Config::new(256)
        .chain(&[(0x11, 0xb0)])
        .msix(0xb0, 0x800, 0, 0x8000)
        .put(0xb3, &[0xff]);
    let largest = Msix {
        table: in_bar(0, 0, 0x8000),
        pba: in_bar(0, 0x8000, 256),
    };
    assert_eq!(msix(&config), Ok(Some(largest)));
    assert_eq!(msix(&Config::new(256).chain(&[(5, 0x40)])), Ok(None));
}

#[test]
fn an_msix_capability_that_cannot_be_is_named_by_its_offset() {
    for (table, pba) in [(0x2006, 0), (0, 0x2007)] {
        let config = Config::new(256)
            .chain(&[(0x11, 0xb0)])
            .msix(0xb0, 1, table, pba);
        let number = u8::try_from((table | pba) & 7).unwrap();
        let source = InputError::NoSuchBar { index: number };
        let error = ConfigError::Msix {
            offset: 0xb0,
            source,
        };
        assert_eq!(msix(&config), Err(error));
    }
    // It does not go on in extended space, which has capabilities of another kind.
    for len in [256, 4096] {
        let config = Config::new(len).chain(&[(0x11, 0xf8)]);
        let error = ConfigError::Truncated {
            offset: 0xf8,
            len: 256,
        };
        assert_eq!(msix(&config), Err(error));
    }
}

#[test]
fn msix_structures_are_checked_where_they_are_made() {
    let at = |bar, offset| (index(bar), offset);
    for vectors in [0, 2049, u16::MAX] {
        let error = Err(InputError::MsixVectors { vectors });
        assert_eq!(Msix::with_vectors(vectors, at(0, 0), at(0, 0x1000)), error);
    }
    let error = Err(InputError::MsixOffset {
        bar: index(2),
        offset: 0x1004,
    });
    assert_eq!(Msix::with_vectors(1, at(0, 0), at(2, 0x1004)), error);
    let wraps = Msix::with_vectors(1, at(0, u64::MAX - 7), at(0, 0));
    assert!(matches!(wraps, Err(InputError::RangeWraps { .. })));
}
