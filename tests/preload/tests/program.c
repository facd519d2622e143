// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
/*
 * A program for the tests of the library. Its subtests are named as the kernel's
 * selftests name theirs. Each argument is a subtest to run.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define CHECK_EXTENSION 0xae03
#define CREATE_VM 0xae01
#define CREATE_VCPU 0xae41
#define SET_REGION2 0x40a0ae49
#define CREATE_GUEST_MEMFD 0xc040aed4
#define SET_ATTRIBUTES 0x4020aed2

static void require(int holds, const char *what)
{
	if (holds)
		return;
	printf("does not hold: %s: %s\n", what, strerror(errno));
	exit(254);
}

static int vm(void)
{
	int kvm = open("/dev/kvm", O_RDWR);
	int fd;

	require(kvm >= 0, "open");
	fd = ioctl(kvm, CREATE_VM, 0);
	require(fd >= 0, "KVM_CREATE_VM");
	close(kvm);
	return fd;
}

static int guest_memfd(int vm, unsigned long size, unsigned long flags)
{
	unsigned long wanted[8] = { size, flags };

	return ioctl(vm, CREATE_GUEST_MEMFD, wanted);
}

static int set_slot(int vm, int slot, unsigned long gpa)
{
	static char page[4096] __attribute__((aligned(4096)));
	struct {
		unsigned int slot, flags;
		unsigned long gpa, size, hva, padding[16];
	} region = { slot, 0, gpa, 4096, (unsigned long)page };

	_Static_assert(sizeof(region) == 160, "as in the kernel");
	return ioctl(vm, SET_REGION2, &region);
}

static void test_slots(void)
{
	int fd = vm();

	require(set_slot(fd, 0, 0x1000) == 0, "a slot");
	require(set_slot(fd, 1, 0x1000) == -1 && errno == EEXIST, "an overlapping slot");
	require(set_slot(fd, 1, 0x2000) == 0, "another slot");
}

static void test_vcpu(void)
{
	require(ioctl(vm(), CREATE_VCPU, 0) == 0, "not reached");
	exit(1);
}

static void test_unknown_ioctl(void)
{
	ioctl(vm(), 0xae99, 0);
	exit(1);
}

static void test_attribute_flags(void)
{
	unsigned long attributes[4] = { 0, 4096, 8, 1 };

	ioctl(vm(), SET_ATTRIBUTES, attributes);
	exit(1);
}

static void test_madvise(void)
{
	char *mem = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED,
			 guest_memfd(vm(), 8192, 3), 0);

	require(mem != MAP_FAILED, "mmap");
	require(munmap(mem, 4096) == 0, "munmap");
	madvise(mem + 4096, 4096, MADV_DONTNEED);
	exit(1);
}

/* What is mapped there later is the real kernel's. */
static void test_munmap(void)
{
	char *mem = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED,
			 guest_memfd(vm(), 8192, 3), 0);
	char *own;

	require(mem != MAP_FAILED && munmap(mem, 8192) == 0, "munmap");
	own = mmap(mem, 8192, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	require(own == mem && madvise(own, 8192, MADV_DONTNEED) == 0, "madvise");
}

static void test_mbind(void)
{
	void *mem = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED,
			 guest_memfd(vm(), 4096, 3), 0);

	require(mem != MAP_FAILED, "mmap");
	syscall(SYS_mbind, mem, 4096, 0, NULL, 0, 0);
	exit(1);
}

static void test_populate(void)
{
	mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE,
	     guest_memfd(vm(), 4096, 3), 0);
	exit(1);
}

static void test_fixed_mapping(void)
{
	char *at = mmap(NULL, 3 * 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int fd = guest_memfd(vm(), 4096, 3);
	char *mem = mmap(at + 4096, 4096, PROT_READ | PROT_WRITE,
			 MAP_SHARED | MAP_FIXED, fd, 0);

	require(mem == at + 4096, "the address");
	*mem = 7;
	mem = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	require(*mem == 7, "the byte of the file");
}

static void test_files(void)
{
	int fd = guest_memfd(vm(), 4096, 0);
	int own = memfd_create("own", 0);
	char byte = 7;

	require(read(fd, &byte, 1) == -1 && errno == EINVAL, "read");
	require(write(fd, &byte, 1) == -1 && errno == EINVAL, "write");
	require(pread(fd, &byte, 1, 0) == -1 && errno == ESPIPE, "pread");
	require(pwrite(fd, &byte, 1, 0) == -1 && errno == ESPIPE, "pwrite");
	require(ftruncate(fd, 0) == -1 && errno == EINVAL, "ftruncate");
	require(fallocate(fd, 0, 0, 4096) == -1 && errno == EOPNOTSUPP, "fallocate");
	/* The number of a closed descriptor is that of another file. */
	require(dup2(own, 100) == 100 && close(100) == 0, "close");
	require(close(fd) == 0 && dup2(own, fd) == fd, "dup2");
	require(write(fd, &byte, 1) == 1 && pread(fd, &byte, 1, 0) == 1, "a file");
	require(ftruncate(fd, 8) == 0 && fallocate(fd, 0, 0, 16) == 0, "its size");
}

/* Between the call and the subtest is a function of the C library. */
static int compare(const void *left, const void *right)
{
	ioctl(vm(), CREATE_VCPU, 0);
	exit(1);
}

static void test_callback(void)
{
	int numbers[] = { 2, 1 };

	qsort(numbers, 2, sizeof(*numbers), compare);
}

/* A child that returned from its subtest would exit with status 0. */
static void test_child(void)
{
	int status;

	if (fork() == 0) {
		test_vcpu();
		exit(0);
	}
	wait(&status);
	require(WIFEXITED(status) && WEXITSTATUS(status) == 65, "the child's status");
}

static void fill_registers(int depth, unsigned long a, unsigned long b,
			   unsigned long c, unsigned long d)
{
	unsigned long e = a * 3 + depth, f = b ^ e, g = c + f, h = d - g;

	if (depth == 0)
		ioctl(vm(), CREATE_VCPU, 0);
	fill_registers(depth - 1, e, f, g, h);
	printf("%lu %lu %lu %lu\n", e, f, g, h);
}

static void test_registers(void)
{
	fill_registers(20, 1, 2, 3, 4);
}

/* Keeps more values across the call than there are registers for. */
static void keep_registers(unsigned long n)
{
	unsigned long a = n * 3, b = n ^ 5, c = n + 7, d = n - 9, e = n << 11, f = n >> 1,
		      g = ~n, h = n | 64;

	asm volatile("" : "+r"(a), "+r"(b), "+r"(c), "+r"(d), "+r"(e), "+r"(f), "+r"(g), "+r"(h));
	test_registers();
	asm volatile("" : "+r"(a), "+r"(b), "+r"(c), "+r"(d), "+r"(e), "+r"(f), "+r"(g), "+r"(h));
	require(a == n * 3 && b == (n ^ 5) && c == n + 7 && d == n - 9 && e == n << 11 &&
		f == n >> 1 && g == ~n && h == (n | 64), "the registers");
}

static const struct {
	const char *name;
	void (*run)(void);
} subtests[] = {
	{ "test_slots", test_slots },
	{ "test_vcpu", test_vcpu },
	{ "test_unknown_ioctl", test_unknown_ioctl },
	{ "test_attribute_flags", test_attribute_flags },
	{ "test_madvise", test_madvise },
	{ "test_munmap", test_munmap },
	{ "test_mbind", test_mbind },
	{ "test_populate", test_populate },
	{ "test_fixed_mapping", test_fixed_mapping },
	{ "test_files", test_files },
	{ "test_callback", test_callback },
	{ "test_child", test_child },
};

int main(int argc, char *argv[])
{
	for (int arg = 1; arg < argc; arg++) {
		if (strcmp(argv[arg], "test_registers") == 0)
			keep_registers(0x123456789abcdef);
		for (size_t n = 0; n < sizeof(subtests) / sizeof(*subtests); n++)
			if (strcmp(subtests[n].name, argv[arg]) == 0)
				subtests[n].run();
	}
	printf("the end\n");
	return 0;
}
