// SPDX-License-Identifier: Apache-2.0
// VHDX against qemu-img's writer. What it can't write is made by changing its files: 4096-byte sectors, differencing
// disks, a pending log.
#include "formats/vhdx_log.h"
#include "tests/formats/editing.h"

#include <unistd.h>

namespace fs = std::filesystem;

namespace kvmport::test {
namespace {

constexpr std::uint64_t kib = 1024, mib = kib * kib;

class Vhdx : public testing::Test {
 protected:
  TempDir dir_;
  fs::path raw_ = dir_.path() / "disk.raw", image_ = dir_.path() / "disk.vhdx", scratch_ = dir_.path() / "scratch";
};

struct Variant {
  const char* name;
  std::uint64_t size;
  const char* options;
};

class VhdxFromQemu : public Vhdx, public testing::WithParamInterface<Variant> {};

TEST_P(VhdxFromQemu, ReadsWhatWasWritten) {
  make_pattern_file(raw_, GetParam().size, 41);
  qemu_convert(raw_, image_, "vhdx", GetParam().options);
  EXPECT_EQ(probe_format(image_), "vhdx");
  const auto disk = open_image(image_);
  expect_same_as_raw(*disk, raw_);
  expect_verbatim(*disk);
}

INSTANTIATE_TEST_SUITE_P(Variants, VhdxFromQemu,
                         testing::Values(Variant{"dynamic", 20 * mib, "subformat=dynamic"},
                                         Variant{"odd", 20 * mib + 9 * 512, "subformat=dynamic,block_size=1M"},
                                         Variant{"blocks_of_1M", 20 * mib, "subformat=dynamic,block_size=1M"},
                                         Variant{"blocks_of_256M", 9 * mib, "subformat=dynamic,block_size=256M"},
                                         Variant{"fixed", 9 * mib, "subformat=fixed,block_size=2M"}),
                         [](const auto& info) { return std::string(info.param.name); });

TEST_F(Vhdx, HugeDisksReadBack) {
  qemu_create(image_, "vhdx", "64T", "block_size=256M");
  // The last sector; and places on both sides of where a sector bitmap's entry stands in the block table.
  qemu_io(
      image_, "vhdx",
      {"write -P 17 4500G 64k", "write -P 18 70368744177152 512", "write -P 19 4294966784 512", "write -P 20 4G 512"});
  const auto disk = open_image(image_);
  ASSERT_EQ(disk->size(), std::uint64_t{64} << 40);
  expect_fill(*disk, std::uint64_t{4500} << 30, 64 * kib, 17);
  expect_fill(*disk, 70368744177152, 512, 18);
  expect_fill(*disk, (std::uint64_t{4} << 30) - 512, 512, 19);
  expect_fill(*disk, std::uint64_t{4} << 30, 512, 20);
  expect_fill(*disk, (std::uint64_t{4} << 30) + 512, 512, 0);
}

TEST_F(Vhdx, CutFilesAreRefused) {
  make_pattern_file(raw_, 12 * mib, 42);
  qemu_convert(raw_, image_, "vhdx", "block_size=1M");
  expect_cuts_refused(image_, dir_.path() / "cut.vhdx");
}

// --- files in memory ---------------------------------------------------------------------------------------------

/// A VHDX of QEMU, to be changed. Its checksums are made anew by save().
class File {
 public:
  explicit File(const fs::path& path) : bytes(load_file(path)) {
    for (const std::uint64_t header : {64 * kib, 128 * kib})
      if (load_le<std::uint64_t>(bytes, header + 8) > load_le<std::uint64_t>(bytes, active + 8))
        active = header;
    for (std::size_t i = 0; i < 2; i++) {
      const std::size_t entry = 192 * kib + 16 + i * 32;
      (load_le<std::uint32_t>(bytes, entry) == 0x2dc27766 ? table : metadata) =
          load_le<std::uint64_t>(bytes, entry + 16);
    }
    log = load_le<std::uint64_t>(bytes, active + 72);
    log_bytes = load_le<std::uint32_t>(bytes, active + 68);
  }

  /// Where the metadata item whose GUID begins with `id` lies.
  std::size_t item(std::uint32_t id) const {
    for (std::size_t i = 0; i < load_le<std::uint16_t>(bytes, metadata + 10); i++)
      if (load_le<std::uint32_t>(bytes, metadata + 32 + i * 32) == id)
        return metadata + load_le<std::uint32_t>(bytes, metadata + 32 + i * 32 + 16);
    throw std::runtime_error("no such metadata");
  }
  std::uint64_t block(std::uint64_t index) const { return load_le<std::uint64_t>(bytes, table + index * 8); }
  void set_block(std::uint64_t index, std::uint64_t value) { store_le<std::uint64_t>(bytes, table + index * 8, value); }

  void fix(std::uint64_t offset, std::size_t length) {
    store_le<std::uint32_t>(bytes, offset + 4, vhdx::crc32c(ByteSpan(bytes).subspan(offset, length), 4));
  }
  void save(const fs::path& path) {
    for (const std::uint64_t header : {64 * kib, 128 * kib})
      fix(header, 4 * kib);
    for (const std::uint64_t regions : {192 * kib, 256 * kib})
      fix(regions, 64 * kib);
    save_file(path, bytes);
  }

  Bytes bytes;
  std::uint64_t active = 64 * kib, table = 0, metadata = 0, log = 0;
  std::uint32_t log_bytes = 0;
};

constexpr std::uint32_t item_parameters = 0xcaa16737, item_size = 0x2fa54224, item_logical = 0x8141bf1d;

TEST_F(Vhdx, DisksOf4096ByteSectors) {
  qemu_create(image_, "vhdx", "9G", "block_size=1M");
  qemu_io(image_, "vhdx", {"write -P 1 0 1M", "write -P 2 4G 1M", "write -P 3 8G 1M"});
  File file(image_);
  store_le<std::uint32_t>(file.bytes, file.item(item_logical), 4096);
  // With 512-byte sectors one bitmap entry follows each 4096 blocks; now one follows each 32768.
  const std::uint64_t second = file.block(4096 + 1), third = file.block(8192 + 2);
  ASSERT_EQ(second & 7, 6U);
  file.set_block(4096 + 1, 0);
  file.set_block(8192 + 2, 0);
  file.set_block(4096, second);
  file.set_block(8192, third);
  file.save(image_);
  const auto disk = open_image(image_);
  EXPECT_EQ(disk->info().logical_sector, 4096U);
  expect_fill(*disk, 0, mib, 1);
  expect_fill(*disk, mib, mib, 0);
  expect_fill(*disk, 4096 * mib, mib, 2);
  expect_fill(*disk, 8192 * mib, mib, 3);
  expect_fill(*disk, 8193 * mib, mib, 0);
}

TEST_F(Vhdx, StatesOfBlocks) {
  qemu_create(image_, "vhdx", "8M", "block_size=1M");
  qemu_io(image_, "vhdx", {"write -P 5 0 8M"});
  File file(image_);
  for (const unsigned state : {0U, 1U, 2U, 3U, 5U})
    file.set_block(state, (file.block(state) & ~std::uint64_t{7}) | state);
  file.save(image_);
  const auto disk = open_image(image_);
  const std::vector<Extent> expected{{{0, mib}, ExtentKind::unallocated},
                                     {{mib, 3 * mib}, ExtentKind::zero},
                                     {{4 * mib, mib}, ExtentKind::data},
                                     {{5 * mib, mib}, ExtentKind::zero},
                                     {{6 * mib, 2 * mib}, ExtentKind::data}};
  EXPECT_EQ(disk->extents({0, disk->size()}), expected);
  expect_fill(*disk, 0, 4 * mib, 0);
  expect_fill(*disk, 4 * mib, mib, 5);
  expect_fill(*disk, 5 * mib, mib, 0);
  EXPECT_EQ(disk->info().notes.size(), 1U);
  for (const unsigned state : {4U, 7U}) {
    File bad(image_);
    bad.set_block(6, (bad.block(6) & ~std::uint64_t{7}) | state);
    bad.save(scratch_);
    expect_error("IMAGE_CORRUPT", [&] { read_everything(scratch_); });
  }
}

// --- differencing ------------------------------------------------------------------------------------------------

class VhdxChain : public Vhdx, public testing::WithParamInterface<std::uint32_t> {
 protected:
  static void put_utf16(Bytes& bytes, std::size_t at, std::string_view text) {
    for (std::size_t i = 0; i < text.size(); i++)
      store_le<std::uint16_t>(bytes, at + i * 2, static_cast<std::uint16_t>(text[i]));
  }

  static std::string guid_at(const Bytes& bytes, std::size_t at) {
    char text[40];
    const auto b = [&](std::size_t i) { return std::to_integer<unsigned>(bytes[at + i]); };
    std::snprintf(text, sizeof text, "{%08X-%04X-%04X-%02X%02X-%02X%02X%02X%02X%02X%02X}",
                  load_le<std::uint32_t>(bytes, at), load_le<std::uint16_t>(bytes, at + 4),
                  load_le<std::uint16_t>(bytes, at + 6), b(8), b(9), b(10), b(11), b(12), b(13), b(14), b(15));
    return text;
  }

  /// Adds a parent locator to the metadata.
  static void add_locator(File& file, const std::vector<std::pair<std::string, std::string>>& pairs) {
    static constexpr unsigned char item_id[16] = {0x2d, 0x5f, 0xd3, 0xa8, 0x0b, 0xb3, 0x4d, 0x45,
                                                  0xab, 0xf7, 0xd3, 0xd8, 0x48, 0x34, 0xab, 0x0c};
    static constexpr unsigned char type_id[16] = {0xb7, 0xef, 0x4a, 0xb0, 0x9e, 0xd1, 0x81, 0x4a,
                                                  0xb7, 0x89, 0x25, 0xb8, 0xe9, 0x44, 0x59, 0x13};
    const std::uint32_t at = 128 * kib;
    const std::size_t base = file.metadata + at;
    std::memcpy(&file.bytes[base], type_id, 16);
    store_le<std::uint16_t>(file.bytes, base + 18, static_cast<std::uint16_t>(pairs.size()));
    std::uint32_t next = 20 + static_cast<std::uint32_t>(pairs.size()) * 12;
    for (std::size_t i = 0; i < pairs.size(); i++) {
      const std::size_t entry = base + 20 + i * 12;
      for (const bool value : {false, true}) {
        const std::string& text = value ? pairs[i].second : pairs[i].first;
        store_le<std::uint32_t>(file.bytes, entry + (value ? 4 : 0), next);
        store_le<std::uint16_t>(file.bytes, entry + (value ? 10 : 8), static_cast<std::uint16_t>(text.size() * 2));
        put_utf16(file.bytes, base + next, text);
        next += static_cast<std::uint32_t>(text.size()) * 2;
      }
    }
    const auto count = load_le<std::uint16_t>(file.bytes, file.metadata + 10);
    const std::size_t entry = file.metadata + 32 + std::size_t{count} * 32;
    std::memcpy(&file.bytes[entry], item_id, 16);
    store_le<std::uint32_t>(file.bytes, entry + 16, at);
    store_le<std::uint32_t>(file.bytes, entry + 20, next);
    store_le<std::uint32_t>(file.bytes, entry + 24, 4);
    store_le<std::uint16_t>(file.bytes, file.metadata + 10, static_cast<std::uint16_t>(count + 1));
  }

  /// base.vhdx: 16 MiB of 1. The child: block 1 whole, block 2 in part, block 3 zero.
  File make_child(std::uint32_t sector, const std::vector<std::pair<std::string, std::string>>& more) {
    qemu_create(dir_.path() / "base.vhdx", "vhdx", "16M", "block_size=2M");
    qemu_io(dir_.path() / "base.vhdx", "vhdx", {"write -P 1 0 16M"});
    File base(dir_.path() / "base.vhdx");
    store_le<std::uint32_t>(base.bytes, base.item(item_logical), sector);
    base.save(dir_.path() / "base.vhdx");

    qemu_create(image_, "vhdx", "16M", "block_size=2M,block_state_zero=off");
    qemu_io(image_, "vhdx", {"write -P 2 2M 4M"});
    File child(image_);
    store_le<std::uint32_t>(child.bytes, child.item(item_logical), sector);
    store_le<std::uint32_t>(child.bytes, child.item(item_parameters) + 4, 2);
    auto pairs = more;
    pairs.push_back({"parent_linkage", guid_at(base.bytes, base.active + 32)});
    add_locator(child, pairs);
    const std::uint64_t bitmap = child.bytes.size();
    child.bytes.resize(bitmap + mib);
    const std::uint64_t chunk_ratio = (std::uint64_t{1} << 23) * sector / (2 * mib);
    child.set_block(chunk_ratio, bitmap | 6);
    child.set_block(2, (child.block(2) & ~std::uint64_t{7}) | 7);
    child.set_block(3, 2);
    // Sectors 0, 7..16 and the last of block 2 are the child's.
    const auto set = [&](std::uint64_t at) { child.bytes[bitmap + at / 8] |= std::byte(1U << at % 8); };
    const std::uint64_t first = 4 * mib / sector, last = 6 * mib / sector - 1;
    set(first);
    for (std::uint64_t i = 7; i <= 16; i++)
      set(first + i);
    set(last);
    return child;
  }

  static void expect_chain(const Image& disk, std::uint32_t sector) {
    expect_fill(disk, 0, 2 * mib, 1);
    expect_fill(disk, 2 * mib, 2 * mib, 2);
    const std::uint64_t at = 4 * mib;
    expect_fill(disk, at, sector, 2);
    expect_fill(disk, at + sector, std::size_t{6} * sector, 1);
    expect_fill(disk, at + std::uint64_t{7} * sector, std::size_t{10} * sector, 2);
    expect_fill(disk, at + std::uint64_t{17} * sector, 2 * mib - std::size_t{18} * sector, 1);
    expect_fill(disk, 6 * mib - sector, sector, 2);
    expect_fill(disk, 6 * mib, 2 * mib, 0);
    expect_fill(disk, 8 * mib, 8 * mib, 1);
  }
};

TEST_P(VhdxChain, SectorsComeFromTheChildOrItsParent) {
  File child = make_child(GetParam(), {{"relative_path", ".\\base.vhdx"}});
  child.save(image_);
  const auto disk = open_image(image_);
  EXPECT_EQ(disk->info().variant, "differencing");
  EXPECT_EQ(disk->info().files.size(), 2U);
  expect_chain(*disk, GetParam());
  expect_verbatim(*disk);
  const auto extents = disk->extents({0, disk->size()});
  ASSERT_EQ(extents.size(), 3U);
  EXPECT_EQ(extents[1], (Extent{{6 * mib, 2 * mib}, ExtentKind::zero}));
}

INSTANTIATE_TEST_SUITE_P(Sectors, VhdxChain, testing::Values(512U, 4096U));

class VhdxParents : public VhdxChain {};

TEST_P(VhdxParents, AreFoundCheckedAndRefused) {
  File child =
      make_child(512, {{"absolute_win32_path", "\\\\?\\C:\\VMs\\base.vhdx"}, {"relative_path", "..\\base.vhdx"}});
  child.save(image_);
  expect_chain(*open_image(image_), 512);
  // The parent was written to since: Hyper-V gives it a new id.
  File base(dir_.path() / "base.vhdx");
  for (const std::uint64_t header : {64 * kib, 128 * kib})
    base.bytes[header + 32] ^= std::byte{1};
  base.save(dir_.path() / "base.vhdx");
  expect_error("PARENT_MISMATCH", [&] { open_image(image_); });
  fs::remove(dir_.path() / "base.vhdx");
  expect_error("PATH_NOT_ALLOWED", [&] { open_image(image_); });
}

TEST_P(VhdxParents, ABitmapThatIsNotThereIsRefused) {
  File child = make_child(512, {{"relative_path", "base.vhdx"}});
  child.set_block(2048, 0);
  child.save(image_);
  expect_error("IMAGE_CORRUPT", [&] { read_everything(image_); });
}

INSTANTIATE_TEST_SUITE_P(Sectors, VhdxParents, testing::Values(512U));

// --- the log -----------------------------------------------------------------------------------------------------

class VhdxLog : public Vhdx {
 protected:
  void SetUp() override {
    make_pattern_file(raw_, 12 * mib, 43);
    qemu_convert(raw_, image_, "vhdx", "block_size=1M");
    file_ = std::make_unique<File>(image_);
    page_.assign(file_->bytes.begin() + static_cast<std::ptrdiff_t>(file_->table),
                 file_->bytes.begin() + static_cast<std::ptrdiff_t>(file_->table + 4096));
    for (const std::uint64_t header : {64 * kib, 128 * kib})
      file_->bytes[header + 48] = std::byte{0x77}; // the log's id
  }

  struct Write {
    std::uint64_t offset;
    Bytes page;               ///< empty: zeros
    std::uint64_t length = 0; ///< of zeros
  };

  /// Puts an entry at `position` of the log (it may go round its end) and returns where the next one goes.
  std::uint32_t put_entry(std::uint32_t position, std::uint32_t tail, std::uint64_t sequence,
                          const std::vector<Write>& writes, std::uint64_t flushed = 0) {
    Bytes entry(4096);
    const auto text = [&](std::size_t at, std::string_view what) {
      std::copy_n(as_bytes(what).begin(), what.size(), entry.begin() + static_cast<std::ptrdiff_t>(at));
    };
    for (std::size_t i = 0; i < writes.size(); i++) {
      const std::size_t at = 64 + i * 32;
      text(at, writes[i].page.empty() ? "zero" : "desc");
      store_le<std::uint64_t>(entry, at + 16, writes[i].offset);
      store_le<std::uint64_t>(entry, at + 24, sequence);
      if (writes[i].page.empty()) {
        store_le<std::uint64_t>(entry, at + 8, writes[i].length);
        continue;
      }
      std::copy_n(writes[i].page.begin(), 8, entry.begin() + static_cast<std::ptrdiff_t>(at + 8));
      std::copy_n(writes[i].page.end() - 4, 4, entry.begin() + static_cast<std::ptrdiff_t>(at + 4));
      const std::size_t data = entry.size();
      entry.insert(entry.end(), writes[i].page.begin(), writes[i].page.end());
      text(data, "data");
      store_le<std::uint32_t>(entry, data + 4, static_cast<std::uint32_t>(sequence >> 32));
      store_le<std::uint32_t>(entry, data + 4092, static_cast<std::uint32_t>(sequence));
    }
    text(0, "loge");
    store_le<std::uint32_t>(entry, 8, static_cast<std::uint32_t>(entry.size()));
    store_le<std::uint32_t>(entry, 12, tail);
    store_le<std::uint64_t>(entry, 16, sequence);
    store_le<std::uint32_t>(entry, 24, static_cast<std::uint32_t>(writes.size()));
    entry[32] = std::byte{0x77};
    store_le<std::uint64_t>(entry, 48, flushed != 0 ? flushed : file_->bytes.size());
    store_le<std::uint64_t>(entry, 56, file_->bytes.size());
    store_le<std::uint32_t>(entry, 4, vhdx::crc32c(entry, 4));
    for (std::size_t i = 0; i < entry.size(); i++)
      file_->bytes[file_->log + (position + i) % file_->log_bytes] = entry[i];
    return static_cast<std::uint32_t>((position + entry.size()) % file_->log_bytes);
  }

  Write table_page() const { return {file_->table, page_}; }
  void lose_table() {
    std::fill_n(file_->bytes.begin() + static_cast<std::ptrdiff_t>(file_->table), 4096, std::byte{0});
  }

  /// What the file says now is what it said before the crash; and the file is as it was.
  void expect_replayed() {
    file_->save(image_);
    const std::string before = sha256_of(image_);
    const auto disk = open_image(image_);
    expect_same_as_raw(*disk, raw_);
    ASSERT_EQ(disk->info().notes.size(), 1U);
    EXPECT_NE(disk->info().notes[0].find("replayed"), std::string::npos);
    EXPECT_EQ(sha256_of(image_), before);
  }

  std::unique_ptr<File> file_;
  Bytes page_;
};

TEST_F(VhdxLog, IsReplayedInMemory) {
  lose_table();
  put_entry(8192, 8192, 900, {table_page()});
  expect_replayed();
}

TEST_F(VhdxLog, ASequenceInWhichLaterEntriesWin) {
  const std::uint32_t start = 64 * kib;
  std::uint32_t at = put_entry(start, start, 50, {{file_->table, random_bytes(4096, 5)}});
  at = put_entry(at, start, 51, {{file_->table, {}, 4096}});
  at = put_entry(at, start, 52, {table_page(), {file_->metadata + 512 * kib, random_bytes(4096, 6)}});
  put_entry(at, start, 54, {{file_->table, random_bytes(4096, 7)}});  // 53 never reached the disk
  store_le<std::uint32_t>(file_->bytes, file_->log + at, 0x65676f6d); // nor did this one wholly
  lose_table();
  expect_replayed();
}

TEST_F(VhdxLog, EntriesBeforeTheTailAreNotRepeated) {
  const std::uint32_t old = put_entry(0, 0, 10, {{file_->table, random_bytes(4096, 8)}});
  put_entry(old, old, 11, {table_page()});
  lose_table();
  expect_replayed();
}

TEST_F(VhdxLog, GoesRoundTheEndOfItsArea) {
  lose_table();
  const std::uint32_t start = file_->log_bytes - 4096; // the header is the last sector, the data the first
  put_entry(start, start, 7, {table_page()});
  expect_replayed();
}

TEST_F(VhdxLog, WritesOverDataAreSeenToo) {
  const std::uint64_t host = file_->block(0) >> 20 << 20;
  put_entry(0, 0, 1, {{host + 4096, Bytes(4096, std::byte{0x42})}, {host + 65536, {}, 8192}});
  file_->save(image_);
  const auto disk = open_image(image_);
  expect_fill(*disk, 4096, 4096, 0x42);
  expect_fill(*disk, 65536, 8192, 0);
  EXPECT_FALSE(disk->file_range({0, mib}));
  Bytes expected(4096);
  read_exact(open_source(raw_).get(), 0, expected, "raw");
  EXPECT_EQ(read_all(*disk, 0, 4096), expected);
}

TEST_F(VhdxLog, DamageIsRefusedAndAnEmptyLogIsNot) {
  file_->save(image_);
  EXPECT_EQ(open_image(image_)->info().notes.size(), 1U);
  expect_same_as_raw(*open_image(image_), raw_);
  lose_table();
  put_entry(0, 0, 1, {table_page()});
  const Bytes good = file_->bytes;
  file_->bytes[file_->log + 5000] ^= std::byte{1};
  file_->save(image_);
  expect_error("IMAGE_CORRUPT", [&] { open_image(image_); });
  file_->bytes = good;
  put_entry(0, 0, 1, {table_page()}, file_->bytes.size() + 4096); // the file was longer once
  file_->save(image_);
  expect_error("DISK_TRUNCATED", [&] { open_image(image_); });
  file_->bytes = good;
  put_entry(0, 0, 1, {{std::uint64_t{1} << 50, page_}});
  file_->save(image_);
  expect_error("IMAGE_CORRUPT", [&] { open_image(image_); });
}

// --- damage and lies ---------------------------------------------------------------------------------------------

TEST_F(Vhdx, OneGoodHeaderAndOneGoodRegionTableAreEnough) {
  make_pattern_file(raw_, 5 * mib, 44);
  qemu_convert(raw_, image_, "vhdx", "block_size=1M");
  const Bytes good = load_file(image_);
  for (const std::uint64_t place : {64 * kib, 128 * kib, 192 * kib}) {
    Bytes bad = good;
    bad[place + 20] ^= std::byte{1};
    save_file(image_, bad);
    const auto disk = open_image(image_);
    expect_same_as_raw(*disk, raw_);
    EXPECT_EQ(disk->info().notes.size(), 1U) << place;
  }
  for (const std::uint64_t place : {64 * kib, 192 * kib}) {
    Bytes bad = good;
    bad[place + 20] ^= std::byte{1};
    bad[place + 64 * kib + 20] ^= std::byte{1};
    save_file(image_, bad);
    expect_error("IMAGE_CORRUPT", [&] { open_image(image_); });
  }
}

TEST_F(Vhdx, LiesAreRefused) {
  qemu_create(image_, "vhdx", "8M", "block_size=1M");
  qemu_io(image_, "vhdx", {"write -P 5 0 8M"});
  const File good(image_);
  struct Lie {
    const char* what;
    std::uint64_t offset, value;
    const char* code;
  };
  const std::uint64_t regions = 192 * kib;
  for (const Lie& lie : {Lie{"block size", good.item(item_parameters), 3 * mib, "IMAGE_CORRUPT"},
                         Lie{"disk size", good.item(item_size), std::uint64_t{65} << 40, "IMAGE_CORRUPT"},
                         Lie{"disk size for the table", good.item(item_size), std::uint64_t{1} << 40, "IMAGE_CORRUPT"},
                         Lie{"odd disk size", good.item(item_size), 8 * mib + 1, "IMAGE_CORRUPT"},
                         Lie{"metadata count", good.metadata + 10, 0xffff, "IMAGE_CORRUPT"},
                         Lie{"item offset", good.metadata + 32 + 16, 0xffffffff00000004, "IMAGE_CORRUPT"},
                         Lie{"region past the end", regions + 32, std::uint64_t{1} << 40, "DISK_TRUNCATED"},
                         Lie{"region in the header", regions + 32, 4096, "IMAGE_CORRUPT"},
                         Lie{"block past the end", good.table, (std::uint64_t{1} << 40) | 6, "DISK_TRUNCATED"},
                         Lie{"block in the header", good.table, 6, "IMAGE_CORRUPT"},
                         Lie{"block on the table", good.table, good.table | 6, "IMAGE_CORRUPT"},
                         Lie{"block used twice", good.table, good.block(1), "IMAGE_CORRUPT"}}) {
    SCOPED_TRACE(lie.what);
    File bad = good;
    store_le<std::uint64_t>(bad.bytes, lie.offset, lie.value);
    bad.save(image_);
    const std::string text = expect_error(lie.code, [&] { read_everything(image_); });
    EXPECT_NE(text.find("disk.vhdx"), std::string::npos) << text;
  }
}

} // namespace
} // namespace kvmport::test
