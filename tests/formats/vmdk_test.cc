// SPDX-License-Identifier: Apache-2.0
// VMDK against qemu-img's writer; what qemu-img can't write is made by hand or by changing its files.
#include "tests/formats/editing.h"

#include <fcntl.h>
#include <unistd.h>

namespace fs = std::filesystem;

namespace kvmport::test {
namespace {

constexpr std::uint64_t mib = 1U << 20, sector = 512;

class Vmdk : public testing::Test {
 protected:
  /// The pattern disk as `subformat`; the file with the data is image_ for the monolithic ones.
  void make(const std::string& subformat, std::uint64_t size, unsigned seed = 51, const std::string& more = {}) {
    fs::remove(raw_);
    fs::remove(image_);
    make_pattern_file(raw_, size, seed);
    qemu_convert(raw_, image_, "vmdk", "subformat=" + subformat + more);
  }
  void expect_refused(const char* code, const Bytes& file) {
    save_file(dir_.path() / "bad.vmdk", file);
    const std::string text = expect_error(code, [&] { read_everything(dir_.path() / "bad.vmdk"); });
    EXPECT_NE(text.find("bad.vmdk"), std::string::npos) << text;
  }
  fs::path describe(const std::string& name, const std::string& type, const std::string& extents,
                    const std::string& more = {}) {
    save_text(dir_.path() / name, "# Disk DescriptorFile\nversion=1\nCID=0abcdef0\nparentCID=ffffffff\ncreateType=\"" +
                                      type + "\"\n" + more + extents);
    return dir_.path() / name;
  }

  TempDir dir_;
  fs::path raw_ = dir_.path() / "disk.raw", image_ = dir_.path() / "disk.vmdk", scratch_ = dir_.path() / "scratch";
};

struct QemuCase {
  const char* name;
  std::uint64_t size;
  const char* subformat;
};

class VmdkFromQemu : public Vmdk, public testing::WithParamInterface<QemuCase> {};

TEST_P(VmdkFromQemu, ReadsWhatWasWritten) {
  make(GetParam().subformat, GetParam().size, 11);
  EXPECT_EQ(probe_format(image_), "vmdk");
  const auto disk = open_image(image_);
  expect_same_as_raw(*disk, raw_);
  expect_same_as_raw(*open_image(image_), raw_, 77 * 512 * 3); // odd pieces, a cold image
  EXPECT_EQ(disk->info().variant, GetParam().subformat);
  if (disk->info().details.contains("compression"))
    EXPECT_FALSE(disk->file_range({0, 512}));
  else if (disk->size() > sector)
    expect_verbatim(*disk);
}

INSTANTIATE_TEST_SUITE_P(Subformats, VmdkFromQemu,
                         testing::Values(QemuCase{"sparse", 24 * mib, "monolithicSparse"},
                                         QemuCase{"sparse_odd", 24 * mib + 11 * 512, "monolithicSparse"},
                                         QemuCase{"sparse_tiny", 512, "monolithicSparse"},
                                         QemuCase{"stream", 40 * mib, "streamOptimized"},
                                         QemuCase{"stream_odd", 40 * mib + 5 * 512, "streamOptimized"},
                                         QemuCase{"stream_tiny", 512, "streamOptimized"},
                                         QemuCase{"flat", 9 * mib, "monolithicFlat"},
                                         QemuCase{"split_sparse", 24 * mib, "twoGbMaxExtentSparse"},
                                         QemuCase{"split_flat", 9 * mib, "twoGbMaxExtentFlat"}),
                         [](const auto& info) { return std::string(info.param.name); });

TEST_F(Vmdk, HugeDisksReadBack) {
  qemu_create(image_, "vmdk", "5T", "subformat=monolithicFlat");
  qemu_io(image_, "vmdk", {"write -P 17 4500G 64k", "write -P 18 5497558138368 512"});
  auto disk = open_image(image_);
  ASSERT_EQ(disk->size(), std::uint64_t{5} << 40);
  expect_fill(*disk, std::uint64_t{4500} << 30, 65536, 17);
  expect_fill(*disk, 5497558138368, 512, 18);
  EXPECT_LE(disk->extents({0, disk->size()}).size(), 5U);
  fs::remove(image_);
  // Split into parts of 2 GB, of which four are here: the disk goes over their borders.
  qemu_create(image_, "vmdk", "7G", "subformat=twoGbMaxExtentSparse");
  qemu_io(image_, "vmdk", {"write -P 19 2147418112 128k", "write -P 20 6G 1M"});
  disk = open_image(image_);
  EXPECT_EQ(disk->info().details.at("extents"), "4");
  expect_fill(*disk, 2147418112, 128 << 10, 19);
  expect_fill(*disk, 2147418112U + (128U << 10), 512, 0);
  expect_fill(*disk, std::uint64_t{6} << 30, mib, 20);
}

TEST_F(Vmdk, CutFilesAreRefused) {
  for (const char* subformat : {"monolithicSparse", "streamOptimized"}) {
    SCOPED_TRACE(subformat);
    make(subformat, 12 * mib);
    expect_cuts_refused(image_, dir_.path() / "cut.vmdk");
  }
  for (const char* subformat : {"monolithicFlat", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat"}) {
    make(subformat, 12 * mib);
    for (const auto& entry : fs::directory_iterator(dir_.path()))
      if (const std::string name = entry.path().filename(); name.starts_with("disk-"))
        fs::resize_file(entry.path(), fs::file_size(entry.path()) * 6 / 10);
    expect_error("DISK_TRUNCATED", [&] { read_everything(image_); });
    for (const auto& entry : fs::directory_iterator(dir_.path()))
      if (const std::string name = entry.path().filename(); name.starts_with("disk-"))
        fs::remove(entry.path());
  }
}

TEST_F(Vmdk, ZeroedGrainsAreZerosEvenOverAParent) {
  qemu_create(dir_.path() / "base.vmdk", "vmdk", "2M");
  qemu_io(dir_.path() / "base.vmdk", "vmdk", {"write -P 3 0 2M"});
  must_run({"qemu-img", "create", "-q", "-f", "vmdk", "-o", "zeroed_grain=on", "-F", "vmdk", "-b",
            (dir_.path() / "base.vmdk").string(), image_.string()});
  qemu_io(image_, "vmdk", {"write -z 64k 64k", "write -P 4 1M 64k"});
  const auto disk = open_image(image_);
  const std::vector<Extent> expected{{{0, 65536}, ExtentKind::data},
                                     {{65536, 65536}, ExtentKind::zero},
                                     {{131072, 2 * mib - 131072}, ExtentKind::data}};
  EXPECT_EQ(disk->extents({0, disk->size()}), expected);
  expect_same_as_qemu(*disk, image_, "vmdk", scratch_);
}

// --- parents -----------------------------------------------------------------------------------------------------

TEST_F(Vmdk, ChainsOfParentsReadAsQemuReadsThem) {
  const auto path = [&](int i) { return (dir_.path() / ("layer" + std::to_string(i) + ".vmdk")).string(); };
  make_pattern_file(raw_, 8 * mib, 12);
  qemu_convert(raw_, path(0), "vmdk");
  for (int i = 1; i <= 3; i++) {
    must_run({"qemu-img", "create", "-q", "-f", "vmdk", "-F", "vmdk", "-b", path(i - 1), path(i)});
    qemu_io(path(i), "vmdk",
            {"write -P " + std::to_string(i) + " " + std::to_string(i) + "M 100k",
             "write -P 9" + std::to_string(i) + " 5000k 20k"});
  }
  const auto disk = open_image(path(3));
  expect_same_as_qemu(*disk, path(3), "vmdk", scratch_);
  EXPECT_EQ(disk->info().files.size(), 4U);
  // The parent changes under its child: VMware and QEMU give it another content id.
  Bytes base = load_file(path(2));
  const std::string_view text = as_text(base);
  const std::size_t cid = text.find("\nCID=");
  ASSERT_NE(cid, std::string::npos);
  base[cid + 5] = base[cid + 5] == std::byte{'1'} ? std::byte{'2'} : std::byte{'1'};
  save_file(path(2), base);
  expect_error("PARENT_MISMATCH", [&] { open_image(path(3)); });
  fs::remove(path(2));
  expect_error("PARENT_MISSING", [&] { open_image(path(3)); });
}

TEST_F(Vmdk, AParentOfAnotherMachineIsFoundBesideItsChild) {
  save_file(dir_.path() / "flat", random_bytes(4096, 1));
  describe("base.vmdk", "monolithicFlat", "RW 8 FLAT \"flat\" 0\n");
  for (const std::string hint : {"/vmfs/volumes/5f3a/vm/base.vmdk", "C:\\VMs\\base.vmdk", "base.vmdk"}) {
    save_text(dir_.path() / "child.vmdk",
              "# Disk DescriptorFile\nCID=00000002\nparentCID=0abcdef0\nparentFileNameHint=\"" + hint +
                  "\"\ncreateType=\"twoGbMaxExtentFlat\"\nRW 8 ZERO\n");
    const auto disk = open_image(dir_.path() / "child.vmdk");
    EXPECT_EQ(disk->info().files.size(), 3U);
  }
}

// --- streams -----------------------------------------------------------------------------------------------------

/// QEMU writes its streams with the directory in front; this makes one as VMware writes it, with the header at the end.
Bytes with_footer(Bytes file) {
  Bytes tail(3 * sector);
  store_le<std::uint64_t>(tail, 0, 1);
  store_le<std::uint32_t>(tail, 12, 3);
  std::copy_n(file.begin(), sector, tail.begin() + sector);
  file.resize(round_up(file.size(), sector));
  store_le<std::uint64_t>(file, 56, ~std::uint64_t{0});
  file.insert(file.end(), tail.begin(), tail.end());
  return file;
}

TEST_F(Vmdk, StreamsWithTheirHeaderAtTheEnd) {
  make("streamOptimized", 12 * mib + 512);
  const Bytes good = with_footer(load_file(image_));
  save_file(image_, good);
  const auto disk = open_image(image_);
  expect_same_as_raw(*disk, raw_);
  expect_threads_agree(*disk);
  for (const std::size_t cut : {1U, 512U, 1024U, 1536U, 100'000U}) {
    SCOPED_TRACE(cut);
    expect_refused("DISK_TRUNCATED", Bytes(good.begin(), good.end() - static_cast<std::ptrdiff_t>(cut)));
  }
  Bytes bad = good;
  store_le<std::uint64_t>(bad, bad.size() - 1024 + 12, 99); // the capacity
  expect_refused("IMAGE_CORRUPT", bad);
  bad = good;
  store_le<std::uint64_t>(bad, bad.size() - 1024 + 56, ~std::uint64_t{0}); // a footer that points to a footer
  expect_refused("IMAGE_CORRUPT", bad);
}

/// Where the first grain that was written lies.
std::uint64_t first_grain(const Bytes& file) {
  const std::uint64_t table = load_le<std::uint32_t>(file, load_le<std::uint64_t>(file, 56) * sector) * sector;
  for (std::uint64_t i = 0;; i++)
    if (const auto entry = load_le<std::uint32_t>(file, table + i * 4); entry > 1)
      return entry * sector;
}

TEST_F(Vmdk, DamagedGrainsOfAStreamAreRefused) {
  make("streamOptimized", 4 * mib);
  const Bytes good = load_file(image_);
  const std::uint64_t grain = first_grain(good);
  Bytes bad = good;
  store_le<std::uint64_t>(bad, grain, 128 * 1000); // another place in the disk
  expect_refused("IMAGE_CORRUPT", bad);
  bad = good;
  store_le<std::uint32_t>(bad, grain + 8, 0);
  expect_refused("IMAGE_CORRUPT", bad);
  bad = good;
  store_le<std::uint32_t>(bad, grain + 8, 0x7fffffff);
  expect_refused("IMAGE_CORRUPT", bad);
  bad = good;
  bad[grain + 40] ^= std::byte{0xff};
  expect_refused("IMAGE_CORRUPT", bad);
}

// --- damage and lies ---------------------------------------------------------------------------------------------

TEST_F(Vmdk, TheRedundantTablesAreUsedWhenTheOthersAreDamaged) {
  make("monolithicSparse", 100 * mib);
  const Bytes good = load_file(image_);
  const std::uint64_t directory = load_le<std::uint64_t>(good, 56) * sector;
  const std::uint64_t table = load_le<std::uint32_t>(good, directory + 4) * sector;
  struct Damage {
    const char* what;
    std::uint64_t offset;
    std::uint32_t value;
  };
  for (const Damage& damage :
       {Damage{"directory entry zero", directory + 4, 0}, Damage{"directory entry past the end", directory, 0x7fffffff},
        Damage{"table entry past the end", table + 8, 0x7fffffff}, Damage{"table entry on the header", table + 8, 1},
        Damage{"directory past the end", 56, 0x7fffffff}, Damage{"no directory", 56, 0}}) {
    SCOPED_TRACE(damage.what);
    Bytes bad = good;
    store_le<std::uint32_t>(bad, damage.offset, damage.value);
    save_file(image_, bad);
    const auto disk = open_image(image_);
    expect_same_as_raw(*disk, raw_);
    EXPECT_EQ(disk->info().notes.size(), 1U);
    store_le<std::uint32_t>(bad, 8, load_le<std::uint32_t>(bad, 8) & ~2U); // there is no other
    save_file(image_, bad);
    if (std::string(damage.what) != "directory entry zero") {
      expect_error(damage.value <= 1 ? "IMAGE_CORRUPT" : "DISK_TRUNCATED", [&] { read_everything(image_); });
    }
  }
}

TEST_F(Vmdk, HeadersThatLieAreRefused) {
  make("monolithicSparse", 4 * mib);
  Bytes good = load_file(image_);
  store_le<std::uint32_t>(good, 8, load_le<std::uint32_t>(good, 8) & ~2U); // without the redundant directory
  const std::uint64_t table = load_le<std::uint32_t>(good, load_le<std::uint64_t>(good, 56) * sector) * sector;
  const std::uint64_t grain = first_grain(good) / sector;
  std::uint64_t other = table;
  while (load_le<std::uint32_t>(good, other) <= 1 || load_le<std::uint32_t>(good, other) == grain)
    other += 4;
  struct Lie {
    const char* what;
    std::uint64_t offset;
    std::uint32_t value;
    const char* code;
  };
  for (const Lie& lie :
       {Lie{"version", 4, 4, "FORMAT_UNSUPPORTED"}, Lie{"version 0", 4, 0, "FORMAT_UNSUPPORTED"},
        Lie{"compressed without markers", 8, 0x10001, "IMAGE_CORRUPT"}, Lie{"capacity 0", 12, 0, "IMAGE_CORRUPT"},
        Lie{"capacity", 16, 0x7fffffff, "IMAGE_CORRUPT"},
        Lie{"capacity past the directory", 16, 0x1000, "DISK_TRUNCATED"}, Lie{"grain 0", 20, 0, "IMAGE_CORRUPT"},
        Lie{"grain 3", 20, 3, "IMAGE_CORRUPT"}, Lie{"grain", 24, 0x80000000, "IMAGE_CORRUPT"},
        Lie{"table of 0", 44, 0, "IMAGE_CORRUPT"}, Lie{"table", 44, 0xffffffff, "IMAGE_CORRUPT"},
        Lie{"descriptor past the end", 28, 0x7fffffff, "DISK_TRUNCATED"},
        Lie{"descriptor of 1 TiB", 36, 0x7fffffff, "IMAGE_CORRUPT"},
        Lie{"line ends of a text transfer", 73, 0x0a0d0a20, "IMAGE_CORRUPT"},
        Lie{"compression", 77, 7, "IMAGE_CORRUPT"},
        Lie{"one grain twice", other, static_cast<std::uint32_t>(grain), "IMAGE_CORRUPT"},
        Lie{"grains overlap", other, static_cast<std::uint32_t>(grain + 1), "IMAGE_CORRUPT"}}) {
    SCOPED_TRACE(lie.what);
    Bytes bad = good;
    store_le<std::uint32_t>(bad, lie.offset, lie.value);
    expect_refused(lie.code, bad);
  }
}

TEST_F(Vmdk, AnEmbeddedDescriptorOpensNoFiles) {
  make("monolithicSparse", mib);
  Bytes file = load_file(image_);
  const std::uint64_t at = load_le<std::uint64_t>(file, 28) * sector;
  const std::string evil = "# Disk DescriptorFile\nCID=1\nparentCID=ffffffff\ncreateType=\"monolithicFlat\"\n"
                           "RW 8 FLAT \"/etc/passwd\" 0\n" +
                           std::string(1, '\0');
  std::copy_n(as_bytes(evil).begin(), evil.size(), file.begin() + static_cast<std::ptrdiff_t>(at));
  expect_refused("IMAGE_CORRUPT", file);
  store_le<std::uint64_t>(file, 12, 0); // QEMU follows the extent lines when the capacity is 0
  expect_refused("IMAGE_CORRUPT", file);
}

// --- descriptors -------------------------------------------------------------------------------------------------

TEST_F(Vmdk, ExtentsOfAllKindsMakeOneDisk) {
  make("monolithicSparse", 2 * mib);
  save_file(dir_.path() / "a \"b\".bin", random_bytes(8192, 2));
  const fs::path path =
      describe("d.vmdk", "twoGbMaxExtentFlat",
               "  rw 8 FLAT \"a \"b\".bin\" 8 \r\nRW 4294967296 ZERO\nRDONLY 4096 SPARSE \"disk.vmdk\"\n"
               "RW 4294967296 ZERO\nRW 8 VMFS \"a \"b\".bin\"\n",
               "encoding=\"UTF-8\"\nunknown line\n  ddb.AdapterType = \"lsilogic\"\n");
  const auto disk = open_image(path);
  const std::uint64_t two_tib = std::uint64_t{4294967296} * sector;
  ASSERT_EQ(disk->size(), 4096 + two_tib + 2 * mib + two_tib + 4096);
  const Bytes flat = random_bytes(8192, 2);
  EXPECT_EQ(read_all(*disk, 0, 4096), Bytes(flat.begin() + 4096, flat.end()));
  EXPECT_EQ(read_all(*disk, disk->size() - 4096, 4096), Bytes(flat.begin(), flat.begin() + 4096));
  EXPECT_EQ(read_all(*disk, 4096 + two_tib, 2 * mib), load_file(raw_));
  EXPECT_EQ(disk->info().details.at("adapter"), "lsilogic");
  // A read over all the borders.
  Bytes across = read_all(*disk, 4096 + two_tib - 512, 2 * mib + 1024);
  EXPECT_TRUE(is_zero(ByteSpan(across).first(512)) && is_zero(ByteSpan(across).last(512)));
}

TEST_F(Vmdk, NamesInOtherEncodings) {
  save_file(dir_.path() / "h\xc3\xa9.bin", random_bytes(4096, 3)); // é in UTF-8
  EXPECT_EQ(read_everything(describe("d.vmdk", "vmfs", "RW 8 VMFS \"h\xe9.bin\"\n", "encoding=\"windows-1252\"\n")),
            random_bytes(4096, 3));
}

TEST_F(Vmdk, DescriptorsThatLieAreRefused) {
  save_file(dir_.path() / "flat", Bytes(1 * mib));
  make("monolithicSparse", mib);
  std::string many;
  for (int i = 0; i < 4097; i++)
    many += "RW 1 ZERO\n";
  struct Lie {
    std::string type, extents;
    const char* code;
  };
  for (const Lie& lie :
       {Lie{"monolithicFlat", "", "IMAGE_CORRUPT"},
        Lie{"", "RW 8 FLAT \"flat\" 0\n", "IMAGE_CORRUPT"},
        Lie{"monolithicFlat", many, "IMAGE_CORRUPT"},
        Lie{"monolithicFlat", "RW 0 FLAT \"flat\" 0\n", "IMAGE_CORRUPT"},
        Lie{"monolithicFlat", "RW -5 FLAT \"flat\" 0\n", "IMAGE_CORRUPT"},
        Lie{"monolithicFlat", "RW 8 FLAT flat 0\n", "IMAGE_CORRUPT"},
        Lie{"monolithicFlat", "RW 8 FLAT \"flat\" x\n", "IMAGE_CORRUPT"},
        Lie{"monolithicFlat", "RW 8 FOO \"flat\" 0\n", "IMAGE_CORRUPT"},
        Lie{"monolithicFlat", "RW 2049 FLAT \"flat\" 0\n", "DISK_TRUNCATED"},
        Lie{"monolithicFlat", "RW 8 FLAT \"flat\" 2041\n", "DISK_TRUNCATED"},
        Lie{"monolithicFlat", "RW 8 FLAT \"flat\" 0\nRW 8 FLAT \"flat\" 7\n", "IMAGE_CORRUPT"},
        Lie{"monolithicFlat", "RW 9223372036854775807 FLAT \"flat\" 0\n", "IMAGE_CORRUPT"},
        Lie{"monolithicFlat", "RW 99999999999999999999 ZERO\n", "IMAGE_CORRUPT"},
        Lie{"twoGbMaxExtentSparse", "RW 2048 SPARSE \"flat\"\n", "IMAGE_CORRUPT"},
        Lie{"twoGbMaxExtentSparse", "RW 2049 SPARSE \"disk.vmdk\"\n", "IMAGE_CORRUPT"},
        Lie{"twoGbMaxExtentSparse", "RW 8 SPARSE \"disk.vmdk\"\nRW 8 SPARSE \"disk.vmdk\"\n", "IMAGE_CORRUPT"},
        Lie{"vmfsSparse", "RW 8 VMFSSPARSE \"flat\"\n", "FORMAT_UNSUPPORTED"},
        Lie{"seSparse", "RW 8 SESPARSE \"flat\"\n", "FORMAT_UNSUPPORTED"},
        Lie{"vmfs", "RW 8 VMFSRDM \"flat\"\n", "FORMAT_UNSUPPORTED"},
        Lie{"fullDevice", "RW 8 FLAT \"/dev/sda\" 0\n", "FORMAT_UNSUPPORTED"},
        Lie{"partitionedDevice", "RW 8 FLAT \"flat\" 0\n", "FORMAT_UNSUPPORTED"},
        Lie{"vmfsRawDeviceMap", "RW 8 FLAT \"flat\" 0\n", "FORMAT_UNSUPPORTED"}}) {
    SCOPED_TRACE(lie.extents.substr(0, 60));
    const fs::path path = describe("d.vmdk", lie.type, lie.extents);
    expect_error(lie.code, [&] { read_everything(path); });
  }
  for (const char* line : {"CID=xyz\n", "parentCID=123456789\n"})
    expect_error("IMAGE_CORRUPT", [&] { open_image(describe("d.vmdk", "vmfs", "RW 8 VMFS \"flat\"\n", line)); });
}

} // namespace
} // namespace kvmport::test
