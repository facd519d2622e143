// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A simulated VM with memory of every kind, its converter, and a listener that
//! maps shared pages for devices.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::{Arc, Mutex, MutexGuard};

use kvm_bindings::{kvm_userspace_memory_region, kvm_userspace_memory_region2};
use kvm_slots::convert::{
    Conversion, ConversionListener, ConversionListenerError, Converter, ConvertibleMemory,
    ConvertibleRange, Discard, GuestMemfdSides, Home, PageRange, PageState,
};
use kvm_slots::push::{Answer, PushPages, Released};
use kvm_slots::sim::{KernelVersion, SimConfig, SimVm};
use kvm_slots::{
    DeviceFile, Errno, FileAttributesError, FileSlice, GuestMemfdFlags, PageSize, SlotBacking,
    SlotRange, Slots, Vm,
};

use super::pages::Pages;
use super::region::private_vm;
use super::{ABI, PAGE, owned_host, range};

/// The kind of memory at a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// Host memory and a guest_memfd.
    Apart,
    /// A guest_memfd alone.
    PrivateOnly,
    /// A guest_memfd with both sides.
    InPlace,
    /// Private MMIO.
    Mmio,
    /// Host memory.
    Plain,
    /// Nothing.
    Hole,
}

/// The homes in which memory can be private.
pub const HOMES: [Home; 3] = [Home::VmAttributes, Home::FileAttributes, Home::Platform];

/// The number of pages in the layout.
pub const COUNT: u64 = 40;

/// Two adjacent slots, then one of each other kind. The last pages are a hole.
pub fn at(page: u64) -> At {
    match page {
        0..=11 => At::Apart,
        12..=15 => At::Hole,
        16..=19 => At::Plain,
        20..=23 => At::Mmio,
        24..=27 => At::PrivateOnly,
        28..=31 => At::InPlace,
        32..=35 => At::Apart,
        _ => At::Hole,
    }
}

/// Counts the steps of a conversion, and fails some of them.
#[derive(Debug, Default)]
pub struct Steps {
    taken: usize,
    fail: BTreeMap<usize, Errno>,
    /// The steps as text.
    pub log: Vec<String>,
}

impl Steps {
    fn take(&mut self, what: String) -> Result<(), Errno> {
        let failed = self.fail.get(&self.taken).copied();
        self.taken += 1;
        let outcome = failed.map_or(String::new(), |errno| format!(": {errno}"));
        self.log.push(format!("{what}{outcome}"));
        failed.map_or(Ok(()), Err)
    }
}

/// The steps of a VM and of its listeners, in one count.
pub type SharedSteps = Arc<Mutex<Steps>>;

/// Starts counting from zero, and fails the steps with the numbers in `fail`.
pub fn start(steps: &SharedSteps, fail: impl IntoIterator<Item = (usize, Errno)>) {
    *lock(steps) = Steps {
        fail: fail.into_iter().collect(),
        ..Steps::default()
    };
}

/// The content of a mutex.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no test panics with the lock")
}

/// A VM that counts its steps, and records the private pages.
#[derive(Debug)]
pub struct Noting {
    /// The VM.
    pub vm: SimVm,
    steps: SharedSteps,
    private: Mutex<BTreeSet<u64>>,
    /// The first page of each guest_memfd.
    files: BTreeMap<RawFd, u64>,
}

impl Noting {
    /// Counts its steps among `steps`.
    pub fn new(vm: SimVm, steps: &SharedSteps) -> Self {
        Self {
            vm,
            steps: steps.clone(),
            private: Mutex::default(),
            files: BTreeMap::new(),
        }
    }

    /// Notes the pages of a guest_memfd by the page that its first one is at.
    pub fn adopt(&mut self, file: &impl AsRawFd, first: u64) {
        self.files.insert(file.as_raw_fd(), first);
    }

    /// Notes a step that changes these pages.
    fn step(&self, first: u64, last: u64, private: bool) -> Result<(), Errno> {
        let word = if private { "private" } else { "shared" };
        lock(&self.steps).take(format!("{word} {first}-{last}"))
    }

    /// Records pages that have changed.
    fn changed(&self, first: u64, last: u64, is_private: bool) {
        let mut private = lock(&self.private);
        match is_private {
            false => (first..=last).for_each(|page| {
                private.remove(&page);
            }),
            true => private.extend(first..=last),
        }
    }

    /// The private pages, by the calls to this VM.
    pub fn private(&self) -> BTreeSet<u64> {
        lock(&self.private).clone()
    }
}

impl Vm for Noting {
    fn check_extension(&self, capability: u32) -> i32 {
        self.vm.check_extension(capability)
    }

    unsafe fn set_user_memory_region2(
        &self,
        region: &kvm_userspace_memory_region2,
    ) -> Result<(), Errno> {
        // SAFETY: passed on from the caller.
        unsafe { self.vm.set_user_memory_region2(region) }
    }

    unsafe fn set_user_memory_region(
        &self,
        region: &kvm_userspace_memory_region,
    ) -> Result<(), Errno> {
        // SAFETY: passed on from the caller.
        unsafe { self.vm.set_user_memory_region(region) }
    }

    fn create_guest_memfd(&self, size: u64, flags: GuestMemfdFlags) -> Result<OwnedFd, Errno> {
        self.vm.create_guest_memfd(size, flags)
    }

    fn page_size(&self) -> PageSize {
        self.vm.page_size()
    }

    fn set_memory_attributes(&self, gpa: u64, size: u64, attributes: u64) -> Result<(), Errno> {
        let (first, last) = (gpa / PAGE, (gpa + size) / PAGE - 1);
        self.step(first, last, attributes != 0)?;
        self.vm.set_memory_attributes(gpa, size, attributes)?;
        self.changed(first, last, attributes != 0);
        Ok(())
    }

    fn set_file_attributes(
        &self,
        file: BorrowedFd<'_>,
        offset: u64,
        size: u64,
        attributes: u64,
    ) -> Result<(), FileAttributesError> {
        // A probe's own file is of no page.
        if let Some(start) = self.files.get(&file.as_raw_fd()) {
            let (first, last) = (start + offset / PAGE, start + (offset + size) / PAGE - 1);
            self.step(first, last, attributes != 0)?;
            self.vm
                .set_file_attributes(file, offset, size, attributes)?;
            self.changed(first, last, attributes != 0);
            return Ok(());
        }
        self.vm.set_file_attributes(file, offset, size, attributes)
    }

    fn push_pages(&self) -> Option<&dyn PushPages> {
        self.vm.push_pages().map(|_| self as &dyn PushPages)
    }

    unsafe fn discard(&self, what: Discard) -> Result<(), Errno> {
        let (word, size) = match what {
            Discard::File { size, .. } => ("punch", size),
            Discard::Host { size, .. } => ("release", size),
            unknown => panic!("{unknown}: the oracle does not know it"),
        };
        lock(&self.steps).take(format!("{word} {}", size / PAGE))?;
        // SAFETY: passed on from the caller.
        unsafe { self.vm.discard(what) }
    }
}

impl PushPages for Noting {
    fn make_private(&self, pages: PageRange) -> Result<Answer, Errno> {
        let (first, last) = (pages.start() / PAGE, pages.end() / PAGE - 1);
        self.step(first, last, true)?;
        let answer = PushPages::make_private(&self.vm, pages)?;
        if answer == Answer::Accepted {
            self.changed(first, last, true);
        }
        Ok(answer)
    }

    fn release(&self, pages: PageRange) -> Result<Released, Errno> {
        let (first, last) = (pages.start() / PAGE, pages.end() / PAGE - 1);
        self.step(first, last, false)?;
        let released = PushPages::release(&self.vm, pages)?;
        if released == Released::Done {
            self.changed(first, last, false);
        }
        Ok(released)
    }
}

/// A listener that maps pages for devices.
#[derive(Debug)]
pub struct Mapper {
    name: String,
    steps: SharedSteps,
    mapped: Mutex<BTreeSet<u64>>,
}

impl Mapper {
    /// A mapper with all pages mapped that devices can reach while nothing is
    /// private.
    pub fn new(name: &str, steps: &SharedSteps) -> Arc<Self> {
        let reachable = (0..COUNT).filter(|&page| matches!(at(page), At::Apart | At::InPlace));
        Arc::new(Self {
            name: name.into(),
            steps: steps.clone(),
            mapped: Mutex::new(reachable.collect()),
        })
    }

    /// The pages that are mapped now.
    pub fn mapped(&self) -> BTreeSet<u64> {
        lock(&self.mapped).clone()
    }

    fn set(&self, change: &Conversion<'_>, to: PageState) {
        let mut mapped = lock(&self.mapped);
        for stretch in change.stretches.iter().filter(|s| s.host().is_some()) {
            for page in pages_of(stretch.range) {
                // Nothing is mapped twice, or unmapped twice.
                assert!(match to {
                    PageState::Shared => mapped.insert(page),
                    PageState::Private => mapped.remove(&page),
                });
            }
        }
    }

    fn step(&self, what: &str, change: &Conversion<'_>) -> Result<(), ConversionListenerError> {
        let stretches = change.stretches.iter().map(|stretch| stretch.range);
        let ranges = stretches.chain(change.unbacked.iter().copied());
        let pages = ranges.flat_map(pages_of);
        let pages: Vec<String> = pages.map(|page| page.to_string()).collect();
        let text = format!("{} {what} {}", self.name, pages.join(","));
        Ok(lock(&self.steps).take(text)?)
    }
}

impl ConversionListener for Mapper {
    fn name(&self) -> &str {
        &self.name
    }

    fn prepare(&self, change: &Conversion<'_>) -> Result<(), ConversionListenerError> {
        self.step("prepare", change)?;
        self.set(change, change.to);
        Ok(())
    }

    fn abort(&self, change: &Conversion<'_>) -> Result<(), ConversionListenerError> {
        self.step("abort", change)?;
        self.set(change, change.to.other());
        Ok(())
    }
}

/// The numbers of the pages in a range.
pub fn pages_of(range: PageRange) -> std::ops::Range<u64> {
    range.start() / PAGE..range.end() / PAGE
}

/// The VM with its converter.
#[derive(Debug)]
pub struct Layout {
    /// Converts the VM's pages.
    pub converter: Converter<Noting, ConvertibleMemory>,
    /// Its listeners.
    pub mappers: [Arc<Mapper>; 2],
    /// The steps so far, and those that shall fail.
    pub steps: SharedSteps,
    /// The host memory of the pages, from page 0 on.
    pub host: Arc<Pages>,
    /// Keeps the slots.
    _slots: Slots<SimVm>,
}

impl Default for Layout {
    fn default() -> Self {
        Self::new()
    }
}

impl Layout {
    /// On a kernel with slots of every kind.
    pub fn new() -> Self {
        Self::on(SimConfig {
            abi: ABI,
            ..private_vm(KernelVersion::V7_3)
        })
    }

    /// On a kernel that keeps the state of pages in this home.
    pub fn of(home: Home) -> Self {
        Self::on(SimConfig {
            abi: ABI,
            home,
            ..private_vm(KernelVersion::V7_3)
        })
    }

    /// On a kernel of this description.
    pub fn on(config: SimConfig) -> Self {
        let vm = SimVm::new(config);
        let host = Arc::new(Pages::new(usize::try_from(COUNT * PAGE).unwrap()));
        let ranges = slots(&vm, &host);
        let wanted: Vec<SlotRange> = ranges.iter().map(|(range, _)| range.clone()).collect();
        // SAFETY: the VM is new, and only `slots` makes its memslots. `ABI` is
        // the simulated kernel's own profile.
        let mut slots = unsafe { Slots::new(vm.clone(), ABI) };
        let plan = slots.plan(&wanted).expect("a plan");
        slots.apply(&plan).expect("the slots exist");

        let mut memory = ConvertibleMemory::new();
        let convertible = ranges
            .iter()
            .filter_map(|(r, holds)| ConvertibleRange::new(r, *holds));
        memory.set_ranges(convertible).expect("no two overlap");
        let steps = SharedSteps::default();
        let mut vm = Noting::new(vm, &steps);
        for (range, _) in &ranges {
            if let SlotBacking::GuestMemfd { file, .. } = range.backing() {
                vm.files.insert(file.fd(), range.gpa() / PAGE);
            }
        }
        let home = Home::probe(&vm).expect("the simulated kernel has a home");
        let mut converter = Converter::new(vm, home, memory);
        let mappers = [Mapper::new("one", &steps), Mapper::new("two", &steps)];
        for mapper in &mappers {
            converter.add_listener(mapper.clone());
        }
        Self {
            converter,
            mappers,
            steps,
            host,
            _slots: slots,
        }
    }

    /// The VM.
    pub fn vm(&self) -> &Noting {
        self.converter.vm()
    }

    /// The steps since the last call.
    pub fn log(&self) -> Vec<String> {
        std::mem::take(&mut lock(&self.steps).log)
    }
}

/// One slot for each kind of memory, and which pages its file holds.
fn slots(vm: &SimVm, pages: &Arc<Pages>) -> Vec<(SlotRange, GuestMemfdSides)> {
    let host = |page: u64| owned_host(pages.address() + page * PAGE, pages.clone());
    let file = |size: u64, flags| {
        let file = vm.create_guest_memfd(size * PAGE, flags);
        whole(file.expect("a guest_memfd"), size * PAGE)
    };
    // All pages are shared at first.
    let none = vm.config().home.file_flags();
    let slot = |page: u64, size: u64, backing| range(page * PAGE, size * PAGE, backing);
    let apart = |page, size| {
        let (file, host) = (file(size, none), Some(host(page)));
        (
            slot(page, size, SlotBacking::GuestMemfd { file, host }),
            GuestMemfdSides::Private,
        )
    };
    let private_only = SlotBacking::GuestMemfd {
        file: file(4, none),
        host: None,
    };
    let in_place = SlotBacking::GuestMemfd {
        file: file(4, none | GuestMemfdFlags::MMAP),
        host: Some(host(28)),
    };
    let registers = vm.create_dma_buf(4 * PAGE).expect("a dma-buf");
    let registers = DeviceFile::new(whole(registers, 4 * PAGE));
    vec![
        apart(0, 8),
        apart(8, 4),
        (
            slot(16, 4, SlotBacking::Host(host(16))),
            GuestMemfdSides::Private,
        ),
        (
            slot(20, 4, SlotBacking::FdOffset(registers)),
            GuestMemfdSides::Private,
        ),
        (slot(24, 4, private_only), GuestMemfdSides::Private),
        (slot(28, 4, in_place), GuestMemfdSides::Both),
        apart(32, 4),
    ]
}

fn whole(file: OwnedFd, size: u64) -> FileSlice {
    FileSlice::new(Arc::new(file), 0, size).expect("the file has bytes")
}
