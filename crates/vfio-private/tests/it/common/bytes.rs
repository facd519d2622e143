// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Configuration space, region info and reports, put together byte by byte.

/// Configuration space with a type 0 header.
#[derive(Clone, Debug)]
pub struct Config(pub Vec<u8>);

impl Config {
    pub fn new(len: usize) -> Self {
        let mut bytes = vec![0; len];
        bytes[..4].copy_from_slice(&[0x36, 0x1b, 0x01, 0x00]);
        Self(bytes)
    }

    pub fn put(mut self, offset: usize, bytes: &[u8]) -> Self {
        self.0[offset..offset + bytes.len()].copy_from_slice(bytes);
        self
    }

    /// The register of BAR `number`.
    pub fn bar(self, number: usize, register: u32) -> Self {
        self.put(0x10 + 4 * number, &register.to_le_bytes())
    }

    /// Capabilities as ID and place, in the order of the chain.
    pub fn chain(mut self, capabilities: &[(u8, u8)]) -> Self {
        self = self.put(0x06, &[0x10, 0x00]);
        let mut pointer = 0x34;
        for &(id, offset) in capabilities {
            self = self.put(pointer, &[offset]);
            self = self.put(offset.into(), &[id, 0]);
            pointer = usize::from(offset) + 1;
        }
        self
    }

    /// The registers of the MSI-X capability at `offset`.
    pub fn msix(self, offset: usize, vectors: u16, table: u32, pba: u32) -> Self {
        self.put(offset + 2, &(vectors - 1).to_le_bytes())
            .put(offset + 4, &table.to_le_bytes())
            .put(offset + 8, &pba.to_le_bytes())
    }
}

impl Config {
    /// An Enhanced Allocation entry: its first register and those behind.
    pub fn entry(self, offset: usize, first: u32, more: &[u32]) -> Self {
        let all = [&[first], more].concat();
        let bytes: Vec<u8> = all.iter().flat_map(|word| word.to_le_bytes()).collect();
        self.put(offset, &bytes)
    }
}

/// Region info with capabilities, each at the end of what is there.
#[derive(Clone, Debug)]
pub struct Info {
    pub bytes: Vec<u8>,
    last: usize,
}

impl Info {
    pub fn new(index: u32, flags: u32, size: u64) -> Self {
        let mut bytes = Vec::new();
        for word in [32, flags, index, 0] {
            bytes.extend(word.to_ne_bytes());
        }
        bytes.extend(size.to_ne_bytes());
        bytes.extend((u64::from(index) << 40).to_ne_bytes());
        Self { bytes, last: 0 }
    }

    pub fn put(mut self, offset: usize, word: u32) -> Self {
        self.bytes[offset..offset + 4].copy_from_slice(&word.to_ne_bytes());
        self
    }

    pub fn capability(mut self, id: u16, version: u16, body: &[u8]) -> Self {
        let at = self.bytes.len();
        let pointer = if self.last == 0 { 12 } else { self.last + 4 };
        self.bytes.extend(id.to_ne_bytes());
        self.bytes.extend(version.to_ne_bytes());
        self.bytes.extend([0; 4]);
        self.bytes.extend(body);
        self.last = at;
        let (at, len) = (at.try_into().unwrap(), self.bytes.len().try_into().unwrap());
        self.put(pointer, at).put(0, len)
    }

    pub fn sparse(self, areas: &[(u64, u64)]) -> Self {
        let count = u32::try_from(areas.len()).unwrap();
        let mut body: Vec<u8> = [count, 0].iter().flat_map(|w| w.to_ne_bytes()).collect();
        let numbers = areas.iter().flat_map(|&(offset, size)| [offset, size]);
        body.extend(numbers.flat_map(u64::to_ne_bytes));
        self.capability(1, 1, &body)
    }
}

/// A report: ranges as first page, number of pages and attributes.
pub fn report(ranges: &[(u64, u32, u32)], device_specific: &[u8]) -> Vec<u8> {
    let mut bytes: Vec<u8> = vec![0x03, 0, 0, 0, 0x20, 0x80, 0, 0, 0, 0, 0, 0];
    bytes.extend(u32::try_from(ranges.len()).unwrap().to_le_bytes());
    for &(first_page, pages, attributes) in ranges {
        bytes.extend(first_page.to_le_bytes());
        bytes.extend(pages.to_le_bytes());
        bytes.extend(attributes.to_le_bytes());
    }
    bytes.extend(u32::try_from(device_specific.len()).unwrap().to_le_bytes());
    bytes.extend(device_specific);
    bytes
}

/// The info of a container with two ranges of IOVAs and 65535 mappings, as Linux fills it.
pub fn container() -> Vec<u8> {
    let mut bytes = Vec::new();
    // Size and flags, the sizes of pages, where the first capability is.
    bytes.extend([88_u32, 3, 0x4020_1000, 0, 24, 0].map(u32::to_ne_bytes));
    // ID and version, where the next one is, how many ranges.
    bytes.extend([0x1_0001_u32, 72, 2, 0].map(u32::to_ne_bytes));
    bytes.extend([0, 0, 0xfedf_ffff, 0, 0xfef0_0000, 0, u32::MAX, u32::MAX].map(u32::to_ne_bytes));
    bytes.extend([0x1_0003_u32, 0, 65535, 0].map(u32::to_ne_bytes));
    bytes.into_flattened()
}
