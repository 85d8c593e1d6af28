# kvmport. The targets a user needs: `make demo`, `make test`; `make help` lists all.
#
# Every folder below is found by itself: a new .cc in base/, formats/, kvmboot/ or libconvert/ joins that room's library,
# cmd/kvm-NAME.cc becomes $(B)/bin/kvm-NAME (the other files of cmd/ are shared by the commands), and tests/ROOM/*.cc become
# the test binary $(B)/bin/tests/ROOM_test. B=DIR builds elsewhere, e.g. `make B=/tmp/b /tmp/b/bin/tests/formats_test`.

B ?= build
PREFIX ?= /usr/local
DESTDIR ?=
CXX ?= g++
OPT ?= -O2 -g1
SANITIZE ?=
GUEST_CACHE ?= $(CURDIR)/build/guests

PKGS := tinyxml2 expat zlib libdeflate libzstd libarchive libcrypto libxxhash fmt nlohmann_json libpng ext2fs com_err blkid libseccomp sqlite3 libnewt yaml-0.1
# Loaded by the runs that need them (base/late_library.h).
LATE_PKGS := libguestfs libvirt
CXXFLAGS_ALL = -std=c++20 $(OPT) $(SANITIZE) -Wall -Wextra -Werror -pthread -I. -I$(B)/gen -D_FILE_OFFSET_BITS=64 \
  $(shell pkg-config --cflags $(PKGS) $(LATE_PKGS) 2>/dev/null) $(CXXFLAGS)
LIBS_ALL = $(shell pkg-config --libs $(PKGS) 2>/dev/null) -lcsv -pthread

# Rooms in link order: each may use only those to its right.
ROOMS := libconvert kvmboot formats base
room_src = $(sort $(shell find $(1) -name '*.cc' 2>/dev/null))
room_lib = $(B)/lib/lib$(1).a
obj = $(patsubst %.cc,$(B)/obj/%.o,$(1))

COMMANDS := $(patsubst cmd/%.cc,%,$(sort $(wildcard cmd/kvm-*.cc)))
CMD_SHARED := $(call obj,$(filter-out $(wildcard cmd/kvm-*.cc),$(wildcard cmd/*.cc)))
CMD_LIB := $(B)/lib/libcmd.a
TEST_ROOMS := $(sort $(patsubst tests/%/,%,$(dir $(wildcard tests/*/*_test.cc))))
TESTS := $(patsubst %,$(B)/bin/tests/%_test,$(TEST_ROOMS))
FUZZERS := $(patsubst tests/fuzz/%.cc,$(B)/bin/fuzz/%,$(wildcard tests/fuzz/*_fuzz.cc))
# A library, so that a lower room's tests are linked with what they use of it alone.
TEST_SUPPORT := $(B)/lib/libtestsupport.a
ROOM_LIBS := $(foreach r,$(ROOMS),$(call room_lib,$(r)))
# Pages with a table that a command knows best are made of man/NAME.in.
MANPAGES := $(wildcard man/*.[1-8]) $(patsubst man/%.in,$(B)/man/%,$(wildcard man/*.in))

# The targets that build all by themselves use every processor, unless -j was given.
PARALLEL = $(if $(filter -j% --jobserver%,$(MAKEFLAGS)),,-j$(shell nproc))

.PHONY: all deps demo test test-fast test-slow check-asan tidy format check-format lint-man bench fuzz fuzz-smoke install uninstall clean help
.SECONDARY:
.DELETE_ON_ERROR:

all: $(patsubst %,$(B)/bin/%,$(COMMANDS))

help:
	@echo "make all         the commands, into $(B)/bin"
	@echo "make demo        install what is missing, build, convert a real guest from an OVA, boot it, show the verdict"
	@echo "make test        install what is missing, build, run every test (real guests included)"
	@echo "make test-fast   the tests without guests"
	@echo "make test-slow   tests of many minutes: a kernel reinstalled in a converted guest, a conversion killed ten times, five clones on one network"
	@echo "make check-asan  the tests without guests, built with ASan and UBSan"
	@echo "make tidy        clang-tidy;  make check-format  clang-format;  make lint-man  mandoc"
	@echo "make bench       measures against virt-v2v and qemu-img in one run"
	@echo "make fuzz        runs each fuzz target for FUZZ_SECONDS (60);  make fuzz-smoke  those that guests, peers of a capture and source disks reach, 10 seconds each"
	@echo "make install     PREFIX=$(PREFIX) DESTDIR=$(DESTDIR);  make uninstall;  make clean"

deps:
	@./tools/install-packages packages.txt tests/guests/packages.txt

# --- objects, libraries, commands, tests -------------------------------------------------------------------------

$(B)/obj/%.o: %.cc
	@mkdir -p $(@D)
	$(CXX) $(CXXFLAGS_ALL) -MMD -MP -c $< -o $@

# Tables of the built-in machine that are written in ACPI's language, as C.
$(B)/gen/%.hex: %.asl
	@mkdir -p $(@D)
	iasl -vs -we -tc -p $(@:.hex=) $< >/dev/null
DSDT := $(B)/gen/kvmboot/vmm/dsdt.hex
$(call obj,kvmboot/vmm/acpi.cc): $(DSDT)

# Scripts of the boot medium, as C++ string literals.
$(B)/gen/%.inc: %.sh
	@mkdir -p $(@D)
	{ printf 'R"__SH__('; cat $<; printf ')__SH__"\n'; } >$@
MEDIA_SCRIPTS := $(patsubst %.sh,$(B)/gen/%.inc,$(wildcard libconvert/p2v/*.sh))
$(call obj,libconvert/p2v/media_tree.cc): $(MEDIA_SCRIPTS)

define room_rule
$(call room_lib,$(1)): $(call obj,$(call room_src,$(1)))
	@mkdir -p $$(@D)
	@rm -f $$@
	$(AR) crs $$@ $$^
endef
$(foreach r,$(ROOMS),$(eval $(call room_rule,$(r))))

$(CMD_LIB): $(CMD_SHARED)
$(TEST_SUPPORT): $(call obj,$(wildcard tests/support/*.cc))
$(CMD_LIB) $(TEST_SUPPORT):
	@mkdir -p $(@D)
	@rm -f $@
	$(AR) crs $@ $^

# A command is linked with what it uses alone: a library more costs each start of it some tenths of a millisecond.
$(B)/bin/%: $(B)/obj/cmd/%.o $(CMD_LIB) $(ROOM_LIBS)
	@mkdir -p $(@D)
	$(CXX) $(SANITIZE) $(LDFLAGS) -Wl,--as-needed $^ $(LIBS_ALL) -o $@

# A lower room's tests need no library above it.
test_rooms = $(if $(filter base,$(1)),base,$(if $(filter formats,$(1)),formats base,$(if $(filter kvmboot,$(1)),kvmboot formats base,$(ROOMS))))
define test_rule
$(B)/bin/tests/$(1)_test: $(call obj,$(wildcard tests/$(1)/*.cc)) $(TEST_SUPPORT) $(foreach r,$(call test_rooms,$(1)),$(call room_lib,$(r)))
	@mkdir -p $$(@D)
	$(CXX) $(SANITIZE) $(LDFLAGS) $$^ $(LIBS_ALL) -lgmock -lgtest -lgtest_main -o $$@
endef
$(foreach t,$(TEST_ROOMS),$(eval $(call test_rule,$(t))))

# Payloads: guests of a few hundred lines that kvmboot's tests boot, as ELF by direct boot or as bare bytes.
PAYLOAD_FLAGS := -m64 -O2 -Wall -Wextra -Werror -ffreestanding -nostdlib -static -fno-pie -no-pie -mno-red-zone \
  -mgeneral-regs-only -fno-stack-protector -fcf-protection=none -fno-asynchronous-unwind-tables \
  -fno-tree-loop-distribute-patterns -Wl,--build-id=none -Wl,-z,noexecstack
PAYLOADS := $(patsubst %,$(B)/payload/%,boot.elf timer.elf disk.elf pm32.elf bzimage.bin real16.bin flash.bin)
payload_src = tests/kvmboot/payload/$(1)

$(B)/payload/%.elf: $(call payload_src,start.S) $(call payload_src,%.c) $(call payload_src,payload.h) $(call payload_src,payload.ld)
	@mkdir -p $(@D)
	$(CC) $(PAYLOAD_FLAGS) -T $(call payload_src,payload.ld) $(filter %.S %.c,$^) -o $@
$(B)/payload/%.elf: $(call payload_src,%.S) $(call payload_src,payload.ld)
	@mkdir -p $(@D)
	$(CC) $(PAYLOAD_FLAGS) -T $(call payload_src,payload.ld) $< -o $@
$(B)/payload/%.bin: $(call payload_src,%.S)
	@mkdir -p $(@D)
	$(CC) $(PAYLOAD_FLAGS) -Wl,-Ttext=$(if $(filter real16,$*),0x7c00,0) -Wl,-e,0 -Wl,--oformat=binary $< -o $@
$(B)/bin/tests/kvmboot_test: | $(PAYLOADS)

# --- checks ------------------------------------------------------------------------------------------------------

# The guest tests convert and boot real machines; everything else is quick.
SLOWEST_TESTS := slow
SLOW_TESTS := guests cli $(SLOWEST_TESTS)
FAST_TESTS := $(filter-out $(patsubst %,$(B)/bin/tests/%_test,$(SLOW_TESTS)),$(TESTS))

test: deps
	+$(MAKE) $(PARALLEL) all tests-built
	@KVMPORT_BIN=$(abspath $(B))/bin KVMPORT_GUESTS=$(GUEST_CACHE) tests/run $(B) \
	  $(filter-out $(patsubst %,$(B)/bin/tests/%_test,$(SLOWEST_TESTS)),$(TESTS))

test-slow: deps
	+$(MAKE) $(PARALLEL) all tests-built
	@KVMPORT_BIN=$(abspath $(B))/bin KVMPORT_GUESTS=$(GUEST_CACHE) KVMPORT_KILLS=10 KVMPORT_SLOW=1 tests/run $(B) \
	  $(patsubst %,$(B)/bin/tests/%_test,$(SLOWEST_TESTS) guests)

test-fast: deps
	+$(MAKE) $(PARALLEL) all tests-built
	@KVMPORT_BIN=$(abspath $(B))/bin tests/run $(B) $(FAST_TESTS)

.PHONY: tests-built
tests-built: $(TESTS)

# ASAN_ROOMS="base formats" checks only these (what parses hostile images): much quicker to build.
ASAN_ROOMS ?= $(filter-out $(SLOW_TESTS),$(TEST_ROOMS))
ASAN_TESTS = $(patsubst %,$(B)/asan/bin/tests/%_test,$(ASAN_ROOMS))
check-asan: deps
	+$(MAKE) $(PARALLEL) B=$(B)/asan OPT="-O1 -g1" SANITIZE="-fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer" $(ASAN_TESTS)
	@KVMPORT_BIN=$(abspath $(B))/bin tests/run $(B)/asan $(ASAN_TESTS)

ALL_SRC := $(foreach r,$(ROOMS) cmd,$(call room_src,$(r)))
tidy: deps $(DSDT) $(MEDIA_SCRIPTS)
	@printf '%s\n' $(ALL_SRC) | xargs -P 2 -n 4 sh -c 'clang-tidy --quiet "$$@" -- -std=c++20 -I. -I$(B)/gen $(shell pkg-config --cflags $(PKGS) $(LATE_PKGS) 2>/dev/null)' tidy

FORMATTED := $(shell git ls-files '*.cc' '*.h' 2>/dev/null)
format:
	clang-format -i $(FORMATTED)
check-format: deps
	clang-format --dry-run -Werror $(FORMATTED)
$(B)/man/kvm-clone.1: man/kvm-clone.1.in $(B)/bin/kvm-clone
	@mkdir -p $(@D)
	$(B)/bin/kvm-clone --list-rules-mdoc >$@.rules
	sed -e '/^@RULES@$$/{r $@.rules' -e 'd;}' $< >$@
	@rm $@.rules

lint-man: deps
	+$(MAKE) $(PARALLEL) $(MANPAGES)
	mandoc -Tlint -Wwarning $(MANPAGES)

# Fuzz targets are linked with sources that are built with sanitizers once, into $(B)/fuzz-obj: the readers of images with
# formats and base, FUZZ_GUEST with what a guest that boots reaches (no /dev/kvm is needed) and what that sits on, FUZZ_COPY
# with the readers of free maps, FUZZ_FIRMWARE with those of a physical machine's firmware tables, FUZZ_P2V with both sides of
# a capture.
FUZZ_SECONDS ?= 60
FUZZ_CXX = clang++ -std=c++20 -O1 -g1 -I. -I$(B)/gen -DFUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION -fno-omit-frame-pointer -fno-sanitize-recover=all $(shell pkg-config --cflags $(PKGS) $(LATE_PKGS) 2>/dev/null)
FUZZ_GUEST := $(patsubst %,$(B)/bin/fuzz/%_fuzz,virtqueue virtio_net pci fw_cfg devices linux_boot judge ext_journal)
FUZZ_COPY := $(patsubst %,$(B)/bin/fuzz/%_fuzz,free_blocks block_stack)
FUZZ_FIRMWARE := $(B)/bin/fuzz/firmware_tables_fuzz
FUZZ_P2V := $(patsubst %,$(B)/bin/fuzz/%_fuzz,p2v_receive p2v_capture)
fuzz_obj = $(patsubst %.cc,$(B)/fuzz-obj/%.o,$(1))
fuzz_guest_src := $(filter-out kvmboot/vmm/vm.cc kvmboot/vmm/pc.cc,$(wildcard kvmboot/vmm/*.cc)) \
  $(patsubst %,kvmboot/%.cc,answerer judge patterns) \
  $(patsubst %,formats/%.cc,overlay image source_file ext_journal ext2_io kernel_image) $(call room_src,base)
fuzz_copy_src := $(wildcard libconvert/copy/*free*.cc libconvert/copy/*_log.cc libconvert/copy/*_tree.cc) \
  $(patsubst %,formats/%.cc,overlay image source_file ext2_io partitions block_stack mapped_image lvm lvm_config md_array part ntfs_records) $(call room_src,base)
fuzz_firmware_src := $(patsubst %,libconvert/%.cc,p2v/smbios p2v/efi_variables machine/text) $(call room_src,formats) $(call room_src,base)
fuzz_p2v_src := $(fuzz_copy_src) $(patsubst %,libconvert/%.cc,copy/journal copy/planner copy/workers copy/space machine/names machine/text machine/limits target/common) \
  $(patsubst %,libconvert/p2v/%.cc,connection messages machine_json spool rendezvous receive wire_sink link capture_plan capture_session host_keys) $(call room_src,formats)

$(B)/fuzz-obj/%.o: %.cc
	@mkdir -p $(@D)
	$(FUZZ_CXX) -fsanitize=fuzzer-no-link,address,undefined -MMD -MP -c $< -o $@
$(call fuzz_obj,kvmboot/vmm/acpi.cc): $(DSDT)
$(FUZZ_GUEST): $(call fuzz_obj,$(fuzz_guest_src))
$(FUZZ_COPY): $(call fuzz_obj,$(fuzz_copy_src))
$(FUZZ_FIRMWARE): $(call fuzz_obj,$(fuzz_firmware_src))
$(FUZZ_P2V): $(call fuzz_obj,$(sort $(fuzz_p2v_src)))
$(filter-out $(FUZZ_GUEST) $(FUZZ_COPY) $(FUZZ_FIRMWARE) $(FUZZ_P2V),$(FUZZERS)): $(call fuzz_obj,$(call room_src,formats) $(call room_src,base))
$(FUZZERS): $(B)/bin/fuzz/%: $(B)/fuzz-obj/tests/fuzz/%.o
	@mkdir -p $(@D)
	$(FUZZ_CXX) -fsanitize=fuzzer,address,undefined -Wl,--as-needed $^ $(LIBS_ALL) -o $@

fuzz: deps
	+$(MAKE) $(PARALLEL) $(FUZZERS)
	@tests/fuzz/run $(B) $(FUZZ_SECONDS) $(FUZZERS)
fuzz-smoke: deps
	+$(MAKE) $(PARALLEL) $(FUZZ_GUEST) $(FUZZ_COPY) $(FUZZ_P2V)
	@tests/fuzz/run $(B) 10 $(FUZZ_GUEST) $(FUZZ_COPY) $(FUZZ_P2V)

# --- what a user runs --------------------------------------------------------------------------------------------

demo: deps
	+$(MAKE) $(PARALLEL) all
	@tests/guests/demo $(B)/bin $(GUEST_CACHE) $(B)/demo

bench: deps
	+$(MAKE) $(PARALLEL) all
	@tests/bench/run $(B)/bin $(GUEST_CACHE) $(B)/bench

install: all $(MANPAGES)
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/share/bash-completion/completions
	install -m 755 $(patsubst %,$(B)/bin/%,$(COMMANDS)) $(DESTDIR)$(PREFIX)/bin
	for c in $(COMMANDS); do [ ! -f cmd/completion/$$c ] || install -m 644 cmd/completion/$$c $(DESTDIR)$(PREFIX)/share/bash-completion/completions/$$c; done
	for m in $(MANPAGES); do d=$(DESTDIR)$(PREFIX)/share/man/man$${m##*.}; install -d $$d; install -m 644 $$m $$d; done

uninstall:
	rm -f $(patsubst %,$(DESTDIR)$(PREFIX)/bin/%,$(COMMANDS)) $(patsubst %,$(DESTDIR)$(PREFIX)/share/bash-completion/completions/%,$(COMMANDS))
	for m in $(MANPAGES); do rm -f $(DESTDIR)$(PREFIX)/share/man/man$${m##*.}/$${m##*/}; done

clean:
	rm -rf $(B)/obj $(B)/gen $(B)/man $(B)/lib $(B)/bin $(B)/payload $(B)/asan $(B)/fuzz $(B)/fuzz-obj $(B)/demo $(B)/bench

-include $(shell find $(B)/obj $(B)/fuzz-obj -name '*.d' 2>/dev/null)
