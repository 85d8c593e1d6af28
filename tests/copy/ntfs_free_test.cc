// SPDX-License-Identifier: Apache-2.0
#include "formats/ntfs_records.h"
#include "tests/copy/free_fixtures.h"

namespace kvmport::test {
namespace {

constexpr std::uint64_t disk_size = 64 * mib;

/// ntfscp syncs the disk each time: in memory that costs nothing.
fs::path in_memory() {
  return ::access("/dev/shm", W_OK) == 0 ? fs::path("/dev/shm") : fs::temp_directory_path();
}

void make_ntfs(const fs::path& disk, const std::string& options = {}) {
  fill_with_junk(disk, disk_size);
  run("mkntfs -Q -F -q " + options + " " + disk.string());
}

void put(const fs::path& disk, const fs::path& file, const std::string& name) {
  must_run({"ntfscp", "-q", disk.string(), file.string(), name});
}

/// Fills the root directory until its index needs blocks of its own; some files are overwritten by shorter ones.
std::map<std::string, std::string> use_ntfs(const fs::path& disk, const fs::path& scratch) {
  std::map<std::string, std::string> wanted;
  fs::create_directories(scratch);
  const auto add = [&](unsigned number, std::uint64_t size, unsigned seed) {
    const std::string name = "a file with a long name, number " + std::to_string(number);
    fs::remove(scratch / "file");
    make_pattern_file(scratch / "file", size, seed);
    put(disk, scratch / "file", name);
    wanted[name] = sha256_of(scratch / "file");
  };
  for (unsigned i = 0; i < 16; i++)
    add(i, 300 + i * i * 9000, i);
  for (unsigned i = 0; i < 16; i += 3)
    add(i, 1000 + i * 1000, 100 + i);
  return wanted;
}

std::map<std::string, std::string> read_files(const fs::path& disk, const std::map<std::string, std::string>& names,
                                              const fs::path& scratch) {
  std::map<std::string, std::string> found;
  for (const auto& [name, digest] : names) {
    write_file_durably(scratch / "read", must_run({"ntfscat", disk.string(), name}));
    found[name] = sha256_of(scratch / "read");
  }
  return found;
}

TEST(NtfsFree, FilesSurviveACopyWithoutFreeClusters) {
  for (const char* options : {"", "-c 512", "-c 65536"}) {
    TempDir dir(in_memory());
    const fs::path disk = dir.path() / "disk", copy = dir.path() / "copy";
    make_ntfs(disk, options);
    const auto wanted = use_ntfs(disk, dir.path() / "scratch");
    CopyStats stats;
    const FreeMap map = copy_without_free(disk, copy, &stats);
    EXPECT_GT(stats.skipped, 30 * mib) << options << ": " << notes_of(map);
    EXPECT_EQ(read_files(copy, wanted, dir.path() / "scratch"), wanted) << options;
    Bytes last(512), same(512); // the backup of the boot sector
    read_exact(open_source(disk).get(), disk_size - 512, last, "disk");
    read_exact(open_source(copy).get(), disk_size - 512, same, "copy");
    EXPECT_EQ(last, same);
  }
}

TEST(NtfsFree, HibernatedWindowsIsCopiedWhole) {
  struct Case {
    const char* name;
    std::string content;
    bool whole;
  };
  const Case cases[] = {{"hiberfil.sys", "HIBR" + std::string(60000, '\0'), true},
                        {"HiberFil.Sys", std::string(4095, '\0') + "x" + std::string(60000, '\0'), true},
                        {"hiberfil.sys", std::string(60000, '\0'), false},
                        {"hiberfil.sys", std::string(), true},
                        {"hiberfil.sys", "small", true},
                        {"hiberfil.sy", "HIBR" + std::string(60000, '\0'), false}};
  TempDir dir(in_memory());
  make_ntfs(dir.path() / "few");
  make_ntfs(dir.path() / "many");
  use_ntfs(dir.path() / "many", dir.path() / "scratch");
  for (const Case& one : cases)
    for (const char* variant : {"few", "many"}) {
      const fs::path disk = dir.path() / "disk";
      fs::copy_file(dir.path() / variant, disk, fs::copy_options::overwrite_existing);
      write_file_durably(dir.path() / "file", one.content);
      put(disk, dir.path() / "file", one.name);
      const auto image = open_result(disk, "raw");
      const FreeMap map = find_free_blocks(*image);
      EXPECT_EQ(map.free.empty(), one.whole) << variant << " " << one.name << ": " << notes_of(map);
    }
}

// mkntfs puts the file table into cluster 4.
constexpr std::uint64_t mft = 16384, record = 1024;

struct System {
  std::uint64_t bitmap = 0, log = 0, volume_flags = 0, mirror = 0; ///< bytes of the disk
};

System find_system(const fs::path& disk) {
  const auto image = open_result(disk, "raw");
  const Part part(*image, {0, image->size()});
  const ntfs::Volume volume = ntfs::check_boot_sector(part.read(0, 512), part);
  const auto start = [&](std::uint64_t number) {
    const ntfs::Record file(volume, part.read(mft + number * record, record), number);
    return file.find(ntfs::Attribute::data)->runs.at(0).start * volume.cluster;
  };
  System system{start(6), start(2), 0, volume.mirror * volume.cluster};
  const Bytes volume_record = part.read(mft + 3 * record, record);
  for (std::size_t at = load_le<std::uint16_t>(volume_record, 20); load_le<std::uint32_t>(volume_record, at) != ~0U;
       at += load_le<std::uint32_t>(volume_record, at + 4))
    if (load_le<std::uint32_t>(volume_record, at) == 0x70)
      system.volume_flags = mft + 3 * record + at + load_le<std::uint16_t>(volume_record, at + 20) + 10;
  return system;
}

TEST(NtfsFree, DamagedVolumesAreCopiedWhole) {
  TempDir dir(in_memory());
  const fs::path disk = dir.path() / "disk";
  make_ntfs(disk);
  use_ntfs(disk, dir.path() / "scratch");
  const System system = find_system(disk);
  const Doubtful edits[] = {
      {"sector size", 11, 1024, 2},
      {"no clusters", 13, 0, 1},
      {"clusters of 3 sectors", 13, 3, 1},
      {"huge clusters", 13, 200, 1},
      {"other clusters", 13, 16, 1},
      {"reserved sectors", 14, 1, 2},
      {"larger than the disk", 40, disk_size / 512 + 1, 8},
      {"huge", 40, ~0ULL, 8},
      {"no sectors", 40, 0, 8},
      {"file table outside", 48, ~0ULL, 8},
      {"file table elsewhere", 48, 5, 8},
      {"mirror outside", 56, ~0ULL, 8},
      {"mirror elsewhere", 56, 100, 8},
      {"record size", 64, 2, 1},
      {"record size huge", 64, 0x81, 1},
      {"no record size", 64, 0, 1},
      {"not a record", mft, 0, 4},
      {"fixup outside", mft + 4, 0xfff8, 2},
      {"fixup count", mft + 6, 2, 2},
      {"torn record", mft + 510, 0x1234, 2},
      {"attributes outside", mft + 20, 0xfff8, 2},
      {"record not in use", mft + 6 * record + 22, 0, 2},
      {"record too long", mft + 6 * record + 24, ~0ULL, 4},
      {"extension record", mft + 6 * record + 32, 1, 8},
      {"other number", mft + 6 * record + 44, 7, 4},
      {"torn map record", mft + 6 * record + 1022, 0x1234, 2},
      {"torn root record", mft + 5 * record + 1022, 0x1234, 2},
      {"mirror differs", system.mirror + 100, 0x77, 1},
      {"dirty", system.volume_flags, 1, 2},
      {"resize the log", system.volume_flags, 2, 2},
      {"upgrade", system.volume_flags, 4, 2},
      {"chkdsk", system.volume_flags, 0x4000, 2},
      {"version", system.volume_flags - 2, 9, 1},
      {"log with a record", system.log + 100000, 0, 1},
      {"log with an unknown page", system.log, 0x44524352, 4},
      {"boot sector free", system.bitmap, 0xfe, 1},
      {"file table free", system.bitmap, 0x0f, 1},
      {"ext4 as well", 1024 + 56, 0xef53, 2},
  };
  expect_copied_whole(disk, edits);
}

/// $LogFile as Windows leaves it: two restart pages, the newer one counts.
TEST(NtfsFree, LogThatIsNotCleanIsSeen) {
  struct Restart {
    std::uint64_t lsn;
    std::uint16_t in_use, flags, major;
    bool operator==(const Restart&) const = default;
  };
  struct Case {
    const char* name;
    Restart first, second;
    bool whole;
  };
  const Restart clean{2000, 0xffff, 0, 1}, flagged{2000, 0, 2, 1}, open{3000, 0, 0, 1}, old_open{1000, 0, 0, 1},
      fast{3000, 0xffff, 2, 2};
  const Case cases[] = {{"closed", clean, clean, false},
                        {"closed by flag", flagged, flagged, false},
                        {"open before", old_open, clean, false},
                        {"open before, second page", clean, old_open, false},
                        {"open", open, open, true},
                        {"opened again", clean, open, true},
                        {"opened again, first page", open, clean, true},
                        {"Fast Startup", fast, fast, true},
                        {"same time", {2000, 0, 0, 1}, clean, true}};
  TempDir dir(in_memory());
  const fs::path disk = dir.path() / "disk";
  make_ntfs(disk);
  const System system = find_system(disk);
  for (const Case& one : cases) {
    UniqueFd fd = open_existing(disk);
    std::uint64_t at = system.log;
    for (const Restart& restart : {one.first, one.second}) {
      Bytes page(4096);
      std::copy_n(as_bytes("RSTR").begin(), 4, page.begin());
      store_le<std::uint16_t>(page, 4, 30);
      store_le<std::uint16_t>(page, 6, 9);
      store_le<std::uint32_t>(page, 16, 4096);
      store_le<std::uint32_t>(page, 20, 4096);
      store_le<std::uint16_t>(page, 24, 48);
      store_le<std::uint16_t>(page, 26, restart.major == 1 ? 1 : 0);
      store_le<std::uint16_t>(page, 28, restart.major);
      store_le<std::uint64_t>(page, 48, restart.lsn);
      store_le<std::uint16_t>(page, 60, restart.in_use);
      store_le<std::uint16_t>(page, 62, restart.flags);
      store_le<std::uint16_t>(page, 30, 7);
      for (std::size_t end = 510; end < page.size(); end += 512)
        store_le<std::uint16_t>(page, end, 7);
      write_exact(fd.get(), at, page, "disk");
      at += page.size();
    }
    const auto image = open_result(disk, "raw");
    const FreeMap map = find_free_blocks(*image);
    EXPECT_EQ(map.free.empty(), one.whole) << one.name << ": " << notes_of(map);
  }
}

} // namespace
} // namespace kvmport::test
