// SPDX-License-Identifier: Apache-2.0
// The reader against what qemu-img makes, and against images that lie.
#include "formats/inflate.h"
#include "formats/readers.h"
#include "tests/formats/fixtures.h"

#include <algorithm>
#include <thread>

namespace kvmport::test {
namespace {

namespace fs = std::filesystem;

std::unique_ptr<Image> open_q(const fs::path& path, const OpenOptions& options = {}) {
  return open_qcow2(SourceFile::open(path), OpenContext{options});
}

/// Reads everything, as a copy would.
void read_everything(const Image& image) {
  Bytes buffer(1 << 20);
  for (const Extent& extent : image.extents({0, image.size()}))
    for (std::uint64_t at = extent.range.offset; extent.kind == ExtentKind::data && at < extent.range.end();
         at += buffer.size())
      image.read(at, std::span(buffer).first(std::min<std::uint64_t>(buffer.size(), extent.range.end() - at)));
}

struct Variant {
  std::string name;
  std::string options;
  bool compressed = false;
  std::uint64_t size = 5 << 20;
};
void PrintTo(const Variant& variant, std::ostream* out) {
  *out << variant.name;
}

class Qcow2Variants : public testing::TestWithParam<Variant> {
 protected:
  /// Converts a pattern to qcow2 with the variant's options.
  void make() {
    make_pattern_file(raw, GetParam().size, static_cast<unsigned>(GetParam().size));
    std::vector<std::string> argv{"qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-o", GetParam().options};
    if (GetParam().compressed)
      argv.push_back("-c");
    argv.insert(argv.end(), {raw.string(), image.string()});
    must_run(argv);
    fs::resize_file(raw, round_up(GetParam().size, 512)); // qemu-img rounds up
  }
  TempDir dir;
  fs::path raw = dir.path() / "in.raw", image = dir.path() / "image.qcow2";
};

TEST_P(Qcow2Variants, EveryByteIsTheSame) {
  make();
  const auto opened = open_q(image);
  for (const std::size_t step : {std::size_t{1} << 20, std::size_t{70001}})
    expect_same_as_raw(*opened, raw, step);
  const ImageInfo info = opened->info();
  EXPECT_EQ(info.format, "qcow2");
  EXPECT_EQ(info.virtual_size, opened->size());
  EXPECT_EQ(info.files, std::vector{image});
}

TEST_P(Qcow2Variants, FileRangesHoldTheBytes) {
  make();
  const auto opened = open_q(image);
  std::uint64_t plain = 0;
  for (std::uint64_t at = 0; at < opened->size();) {
    const auto range = opened->file_range({at, opened->size() - at});
    if (!range) {
      at += 512;
      continue;
    }
    Bytes direct(std::min<std::uint64_t>(range->length, 1 << 20));
    read_exact(range->fd, range->offset, direct, "image");
    ASSERT_EQ(direct, read_all(*opened, at, direct.size())) << "at " << at;
    plain += direct.size();
    at += direct.size();
  }
  if (!GetParam().compressed) {
    EXPECT_GT(plain, 0U);
  }
}

TEST_P(Qcow2Variants, CutFilesAreRefusedNotRead) {
  make();
  fs::resize_file(image, fs::file_size(image) * 6 / 10);
  expect_error("DISK_TRUNCATED", [&] { read_everything(*open_q(image)); });
}

INSTANTIATE_TEST_SUITE_P(
    Made, Qcow2Variants,
    testing::Values(Variant{"v3", "compat=1.1"}, Variant{"v2", "compat=0.10"},
                    Variant{"cluster512", "cluster_size=512", false, 700000}, Variant{"cluster4k", "cluster_size=4k"},
                    Variant{"cluster2m", "cluster_size=2M", false, 30 << 20},
                    Variant{"zlib", "compression_type=zlib", true}, Variant{"zstd", "compression_type=zstd", true},
                    Variant{"zlib512", "cluster_size=512", true, 700000}, Variant{"zlib4k", "cluster_size=4k", true},
                    Variant{"zlib2m", "cluster_size=2M", true, 30 << 20},
                    Variant{"zstd512", "cluster_size=512,compression_type=zstd", true, 700000},
                    Variant{"zstd2m", "cluster_size=2M,compression_type=zstd", true, 30 << 20},
                    Variant{"zlibV2", "compat=0.10", true}, Variant{"extended", "extended_l2=on"},
                    Variant{"extended16k", "extended_l2=on,cluster_size=16k"},
                    Variant{"extendedZstd", "extended_l2=on,compression_type=zstd", true},
                    Variant{"lazy", "lazy_refcounts=on"}, Variant{"refcount1", "refcount_bits=1"},
                    Variant{"refcount64", "refcount_bits=64"}, Variant{"metadata", "preallocation=metadata"},
                    Variant{"full", "preallocation=full"}, Variant{"oddSize", "compat=1.1", false, 5000001},
                    Variant{"oddSizeZlib", "compat=1.1", true, 5000001},
                    Variant{"oddSizeExtended", "extended_l2=on", false, 5000001}),
    [](const auto& info) { return info.param.name; });

/// Writes in small pieces, zeroes and discards through QEMU: what an image of a running guest looks like.
void use_like_a_guest(const fs::path& image, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<std::string> argv{"qemu-io", "-f", "qcow2"};
  const auto command = [&](const std::string& text) { argv.insert(argv.end(), {"-c", text}); };
  for (int i = 0; i < 60; i++) {
    const std::string where = std::to_string(random() % 8000 * 512) + " " + std::to_string((1 + random() % 200) * 512);
    const unsigned kind = random() % 6;
    command(kind == 0   ? "write -z " + where
            : kind == 1 ? "write -z -u " + where
            : kind == 2 ? "discard " + where
                        : "write -P " + std::to_string(1 + random() % 255) + " " + where);
  }
  argv.push_back(image.string());
  must_run(argv);
}

class Qcow2Used : public testing::TestWithParam<const char*> {};

TEST_P(Qcow2Used, ChainsOfUsedImagesReadAsQemuReadsThem) {
  const TempDir dir;
  const auto path = [&](const char* name) { return (dir.path() / name).string(); };
  make_pattern_file(path("base.raw"), 3 << 20, 21);
  must_run({"qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", "base.raw", "-o", GetParam(),
            path("mid.qcow2"), "5M"});
  use_like_a_guest(path("mid.qcow2"), 22);
  must_run({"qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", "mid.qcow2", "-o", GetParam(),
            path("top.qcow2"), "6M"}); // both backing files are shorter
  use_like_a_guest(path("top.qcow2"), 23);
  for (const char* name : {"mid.qcow2", "top.qcow2"}) {
    fs::remove(path("truth.raw"));
    must_run({"qemu-img", "convert", "-f", "qcow2", "-O", "raw", path(name), path("truth.raw")});
    const auto image = open_q(path(name));
    for (const std::size_t step : {std::size_t{1} << 20, std::size_t{12345}})
      expect_same_as_raw(*image, path("truth.raw"), step);
  }
  const ImageInfo info = open_q(path("top.qcow2"))->info();
  EXPECT_EQ(info.files, (std::vector<fs::path>{path("top.qcow2"), path("mid.qcow2"), path("base.raw")}));
  EXPECT_EQ(info.details.at("backing_file"), "mid.qcow2");
}

INSTANTIATE_TEST_SUITE_P(Options, Qcow2Used,
                         testing::Values("compat=1.1", "compat=0.10", "cluster_size=512", "cluster_size=2M",
                                         "extended_l2=on", "extended_l2=on,cluster_size=2M"));

TEST(Qcow2Reader, ReadsTheCurrentStateBesideInternalSnapshots) {
  const TempDir dir;
  const std::string image = dir.path() / "image.qcow2", truth = dir.path() / "truth.raw";
  make_pattern_file(dir.path() / "in.raw", 5 << 20, 31);
  must_run({"qemu-img", "convert", "-f", "raw", "-O", "qcow2", dir.path() / "in.raw", image});
  must_run({"qemu-img", "snapshot", "-c", "before", image});
  use_like_a_guest(image, 32);
  must_run({"qemu-img", "snapshot", "-c", "between", image});
  use_like_a_guest(image, 33);
  must_run({"qemu-img", "convert", "-f", "qcow2", "-O", "raw", image, truth});
  const auto opened = open_q(image);
  expect_same_as_raw(*opened, truth);
  EXPECT_EQ(opened->info().details.at("snapshots"), "2");
}

TEST(Qcow2Reader, HugeVirtualDisksNeedLittle) {
  const TempDir dir;
  const std::string image = dir.path() / "huge.qcow2";
  must_run({"qemu-img", "create", "-q", "-f", "qcow2", image, "9T"});
  must_run({"qemu-io", "-f", "qcow2", "-c", "write -P 1 0 512", "-c", "write -P 2 5T 64k", "-c",
            "write -P 3 9895604649472 512", image}); // 9 TiB - 512
  const auto opened = open_q(image);
  ASSERT_EQ(opened->size(), std::uint64_t{9} << 40);
  EXPECT_EQ(read_all(*opened, std::uint64_t{5} << 40, 65536), Bytes(65536, std::byte{2}));
  EXPECT_EQ(read_all(*opened, (std::uint64_t{9} << 40) - 512, 512), Bytes(512, std::byte{3}));
  EXPECT_TRUE(is_zero(read_all(*opened, std::uint64_t{7} << 40, 4 << 20)));
  const auto extents = opened->extents({0, opened->size()});
  ASSERT_EQ(extents.size(), 5U);
  EXPECT_EQ(extents[2], (Extent{{std::uint64_t{5} << 40, 65536}, ExtentKind::data}));
}

TEST(Qcow2Reader, ThreadsReadTheSameBytes) {
  const TempDir dir;
  const fs::path raw = dir.path() / "in.raw", image = dir.path() / "image.qcow2";
  make_pattern_file(raw, 8 << 20, 41);
  must_run({"qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", "-o", "cluster_size=4k", raw, image});
  const auto opened = open_q(image);
  const auto truth = open_raw(SourceFile::open(raw), OpenContext{});
  std::vector<std::thread> threads;
  std::atomic<int> wrong{0};
  for (unsigned t = 0; t < 4; t++)
    threads.emplace_back([&, t] {
      std::mt19937 random(t);
      for (int i = 0; i < 300; i++) {
        const std::size_t at = random() % (8 << 20), n = random() % std::min<std::size_t>(100000, (8 << 20) - at);
        wrong += read_all(*opened, at, n) != read_all(*truth, at, n);
      }
    });
  for (auto& thread : threads)
    thread.join();
  EXPECT_EQ(wrong, 0);
}

/// A small image with one data cluster, whose bytes the cases below change.
class Qcow2Lies : public testing::Test {
 protected:
  void SetUp() override { make(""); }
  void make(const std::string& options) {
    fs::remove(path);
    must_run({"qemu-img", "create", "-q", "-f", "qcow2", "-o", "cluster_size=64k" + options, path, "64M"});
    must_run({"qemu-io", "-f", "qcow2", "-c", "write -P 7 0 192k", path});
    bytes.resize(fs::file_size(path));
    const UniqueFd fd = open_source(path);
    read_exact(fd.get(), 0, bytes, "image");
    l1 = load_be<std::uint64_t>(bytes, 40);
    l2 = load_be<std::uint64_t>(bytes, l1) & 0x00fffffffffffe00;
  }
  std::unique_ptr<Image> open_changed() {
    return open_qcow2(SourceFile::from_memory(bytes, "changed.qcow2"), OpenContext{});
  }
  std::string refused(const std::string& code) {
    return expect_error(code, [this] { read_everything(*open_changed()); });
  }
  void put32(std::size_t at, std::uint32_t value) { store_be<std::uint32_t>(bytes, at, value); }
  void put64(std::size_t at, std::uint64_t value) { store_be<std::uint64_t>(bytes, at, value); }

  TempDir dir;
  std::string path = dir.path() / "image.qcow2";
  Bytes bytes;
  std::uint64_t l1 = 0, l2 = 0;
};

TEST_F(Qcow2Lies, TheUnchangedImageIsFine) {
  read_everything(*open_changed());
  EXPECT_EQ(read_all(*open_changed(), 0, 196608), Bytes(196608, std::byte{7}));
}

TEST_F(Qcow2Lies, HeadersAreRefusedByName) {
  const struct {
    const char* name;
    std::size_t at;
    std::uint64_t value;
    unsigned width;
    const char* code;
    const char* text;
  } cases[] = {
      {"magic", 0, 0, 4, "FORMAT_UNKNOWN", "not a qcow2"},
      {"version 1", 4, 1, 4, "FORMAT_UNSUPPORTED", "version 1"},
      {"version 4", 4, 4, 4, "FORMAT_UNSUPPORTED", "version 4"},
      {"AES", 32, 1, 4, "IMAGE_ENCRYPTED", "AES"},
      {"LUKS", 32, 2, 4, "IMAGE_ENCRYPTED", "LUKS"},
      {"unknown cipher", 32, 3, 4, "FORMAT_UNSUPPORTED", "method 3"},
      {"cluster bits 8", 20, 8, 4, "IMAGE_CORRUPT", "cluster size"},
      {"cluster bits 22", 20, 22, 4, "IMAGE_CORRUPT", "cluster size"},
      {"size", 24, std::uint64_t{1} << 63, 8, "IMAGE_CORRUPT", "disk size"},
      {"size beyond L1", 24, std::uint64_t{1} << 50, 8, "IMAGE_CORRUPT", "L1 table is too small"},
      {"L1 size", 36, 0xffffffff, 4, "IMAGE_CORRUPT", "L1 table is too large"},
      {"L1 longer than the file", 36, 1 << 20, 4, "DISK_TRUNCATED", "L1 table"},
      {"L1 unaligned", 40, 0x10200, 8, "IMAGE_CORRUPT", "L1 table is not aligned"},
      {"L1 in the header", 40, 0, 8, "IMAGE_CORRUPT", "L1 table lies in the header"},
      {"L1 past the end", 40, std::uint64_t{1} << 40, 8, "DISK_TRUNCATED", "L1 table"},
      {"L1 wraps", 40, 0xffffffffffff0000, 8, "DISK_TRUNCATED", "L1 table"},
      {"refcount table size", 56, 0xffffffff, 4, "IMAGE_CORRUPT", "reference count table"},
      {"refcount table unaligned", 48, 5, 8, "IMAGE_CORRUPT", "reference count table"},
      {"snapshots", 60, 0xffffffff, 4, "IMAGE_CORRUPT", "snapshots"},
      {"snapshots past the end", 60, 60000, 4, "DISK_TRUNCATED", "snapshot table"},
      {"corrupt bit", 72, 2, 8, "IMAGE_CORRUPT", "marked corrupt"},
      {"data file", 72, 4, 8, "FORMAT_UNSUPPORTED", "external data file"},
      {"unknown feature", 72, std::uint64_t{1} << 37, 8, "FORMAT_UNSUPPORTED", "bit 37"},
      {"compression without its byte", 72, 8, 8, "IMAGE_CORRUPT", "compression type"},
      {"refcount order", 96, 7, 4, "IMAGE_CORRUPT", "reference count width"},
      {"header length 96", 100, 96, 4, "IMAGE_CORRUPT", "header length"},
      {"header length odd", 100, 113, 4, "IMAGE_CORRUPT", "header length"},
      {"header length huge", 100, 0xfffffff8, 4, "IMAGE_CORRUPT", "header length"},
      {"backing name", 8, 65530, 8, "", ""},
  };
  const Bytes good = bytes;
  for (const auto& c : cases) {
    SCOPED_TRACE(c.name);
    bytes = good;
    if (c.width == 4)
      put32(c.at, static_cast<std::uint32_t>(c.value));
    else
      put64(c.at, c.value);
    if (c.code[0] == '\0') { // needs a second field
      put32(16, 1023);
      EXPECT_NE(refused("IMAGE_CORRUPT").find("backing file"), std::string::npos);
      continue;
    }
    const std::string text = refused(c.code);
    EXPECT_NE(text.find(c.text), std::string::npos) << text;
  }
}

TEST_F(Qcow2Lies, EntriesAreRefusedWithTheirOffset) {
  const std::uint64_t copied = std::uint64_t{1} << 63;
  const struct {
    const char* name;
    std::uint64_t at, value;
    const char *code, *text;
  } cases[] = {
      {"L1 entry past the end", l1, copied | std::uint64_t{1} << 40, "DISK_TRUNCATED", "1099511627776"},
      {"L1 entry unaligned", l1, copied | 0x30200, "IMAGE_CORRUPT", "L1 entry"},
      {"L1 entry in the header", l1, copied, "IMAGE_CORRUPT", "L1 entry"},
      {"L1 entry reserved bits", l1, copied | l2 | 1, "IMAGE_CORRUPT", "L1 entry"},
      {"L1 entry at the L1 table", l1, copied | l1, "IMAGE_CORRUPT", "other tables"},
      {"L2 entry past the end", l2 + 8, copied | std::uint64_t{1} << 40, "DISK_TRUNCATED", "offset 65536"},
      {"L2 entry unaligned", l2 + 8, copied | 0x50200, "IMAGE_CORRUPT", "L2 entry"},
      {"L2 entry reserved bits", l2 + 8, copied | std::uint64_t{1} << 58, "IMAGE_CORRUPT", "L2 entry"},
      {"L2 entry at a table", l2 + 8, copied | l1, "IMAGE_CORRUPT", "used twice"},
      {"cluster used twice", l2 + 8, load_be<std::uint64_t>(bytes, l2), "IMAGE_CORRUPT", "used twice"},
      {"compressed past the end", l2 + 8, std::uint64_t{1} << 62 | std::uint64_t{1} << 40, "DISK_TRUNCATED",
       "compressed"},
      {"compressed garbage", l2 + 8, std::uint64_t{1} << 62 | std::uint64_t{10} << 54 | l2, "IMAGE_CORRUPT",
       "decompressed"},
  };
  const Bytes good = bytes;
  for (const auto& c : cases) {
    SCOPED_TRACE(c.name);
    bytes = good;
    put64(c.at, c.value);
    const std::string text = refused(c.code);
    EXPECT_NE(text.find(c.text), std::string::npos) << text;
  }
}

TEST_F(Qcow2Lies, ASmallFileCannotClaimEndlessData) {
  // All of L1 at one L2 table.
  must_run({"qemu-img", "resize", "-q", path, "64G"});
  const UniqueFd fd = open_source(path);
  bytes.resize(file_size(fd.get()));
  read_exact(fd.get(), 0, bytes, "image");
  l1 = load_be<std::uint64_t>(bytes, 40);
  const auto table = load_be<std::uint64_t>(bytes, l1);
  const Bytes good = bytes;
  for (std::size_t i = 0; i < 128; i++)
    put64(l1 + i * 8, table);
  EXPECT_NE(refused("IMAGE_CORRUPT").find("other tables"), std::string::npos);
  // All clusters at one compressed block.
  bytes = good;
  const std::size_t block = bytes.size();
  bytes.resize(block + 512);
  l2 = table & 0x00fffffffffffe00;
  for (std::size_t i = 0; i < 8192; i++)
    put64(l2 + i * 8, std::uint64_t{1} << 62 | std::uint64_t{1} << 54 | (block - 512));
  EXPECT_NE(refused("IMAGE_CORRUPT").find("claim more data"), std::string::npos);
}

TEST_F(Qcow2Lies, SubclustersCannotBeBoth) {
  make(",extended_l2=on");
  put64(l2 + 8, 0x00000001'00000001);
  EXPECT_NE(refused("IMAGE_CORRUPT").find("both"), std::string::npos);
}

TEST_F(Qcow2Lies, ADirtyImageIsReadWithANote) {
  put64(72, 1);
  const auto image = open_changed();
  read_everything(*image);
  ASSERT_FALSE(image->info().notes.empty());
  EXPECT_NE(image->info().notes[0].find("dirty"), std::string::npos);
}

TEST_F(Qcow2Lies, CompressedClustersMustGiveExactlyACluster) {
  // The data of cluster 1 is replaced by a stream of another length.
  for (const std::size_t length : {65536, 65535, 65537, 1 << 20}) {
    SCOPED_TRACE(length);
    make("");
    const fs::path raw = dir.path() / "long.raw", gz = dir.path() / "long.raw.gz";
    fs::remove(gz);
    write_file_durably(raw, as_text(text_bytes(length)));
    must_run({"gzip", "-n", "-k", raw});
    const std::string stream = read_file(gz).substr(10); // raw deflate, then 8 bytes of junk
    const std::uint64_t host = load_be<std::uint64_t>(bytes, l2 + 8) & 0x00fffffffffffe00;
    std::memcpy(bytes.data() + host, stream.data(), stream.size());
    put64(l2 + 8, std::uint64_t{1} << 62 | std::uint64_t{stream.size() / 512 + 1} << 54 | host);
    if (length == 65536) {
      read_everything(*open_changed());
      EXPECT_EQ(read_all(*open_changed(), 65536, 65536), text_bytes(65536));
      EXPECT_EQ(read_all(*open_changed(), 70000, 100), text_bytes(100, 70000 - 65536));
    } else {
      refused("IMAGE_CORRUPT");
    }
  }
}

} // namespace
} // namespace kvmport::test
