// SPDX-License-Identifier: Apache-2.0
// Archives that libarchive writes are read, archives that we write libarchive reads; damaged ones are refused.
#include "base/error.h"
#include "libconvert/guest/linux/cpio.h"

#include <algorithm>
#include <archive.h>
#include <archive_entry.h>
#include <gmock/gmock.h>
#include <map>

namespace kvmport::test {
namespace {

using linux_guest::CpioEntry;
using linux_guest::CpioReader;
using linux_guest::CpioWriter;

std::string archive_of(const std::map<std::string, std::string>& files) {
  std::string out(1U << 20, '\0');
  std::size_t used = 0;
  archive* a = ::archive_write_new();
  ::archive_write_set_format_cpio_newc(a);
  ::archive_write_open_memory(a, out.data(), out.size(), &used);
  for (const auto& [name, content] : files) {
    archive_entry* entry = ::archive_entry_new();
    ::archive_entry_set_pathname(entry, name.c_str());
    ::archive_entry_set_mode(entry, S_IFREG | 0644);
    ::archive_entry_set_size(entry, static_cast<la_int64_t>(content.size()));
    ::archive_write_header(a, entry);
    ::archive_write_data(a, content.data(), content.size());
    ::archive_entry_free(entry);
  }
  ::archive_write_free(a);
  out.resize(used);
  return out;
}

linux_guest::ByteSource source_of(std::string_view& text) {
  return [&text](std::size_t most) {
    const std::string_view part = text.substr(0, std::min<std::size_t>(most, 100)); // in small pieces
    text.remove_prefix(part.size());
    return part;
  };
}

std::map<std::string, std::string> read_all(std::string_view text) {
  std::map<std::string, std::string> files;
  CpioReader reader(source_of(text));
  CpioEntry entry;
  while (reader.next(entry))
    files[entry.name] = entry.is_file() ? reader.content(1U << 20) : "directory";
  return files;
}

const std::map<std::string, std::string> sample{
    {"a", ""}, {"b/c", "x"}, {"b/d", "four"}, {"e", std::string(5000, 'e')}, {"f", "12345"}};

TEST(Cpio, ReadsWhatLibarchiveWrites) {
  EXPECT_EQ(read_all(archive_of(sample)), sample);
}

TEST(Cpio, ReadsArchivesOneAfterTheOtherWithZerosBetween) {
  const std::string both =
      archive_of({{"a", "1"}, {"b", "2"}}) + std::string(1024, '\0') + archive_of({{"b", "3"}, {"./c", "4"}});
  EXPECT_EQ(read_all(both), (std::map<std::string, std::string>{{"a", "1"}, {"b", "3"}, {"c", "4"}}));
}

TEST(Cpio, StopsWhereSomethingElseBegins) {
  for (const std::size_t zeros : {0U, 1U, 2U, 5U, 512U}) {
    const std::string first = archive_of({{"a", "1"}}) + std::string(zeros, '\0');
    const std::string whole = first + "\x1f\x8b more";
    std::string_view text = whole;
    CpioReader reader(source_of(text));
    CpioEntry entry;
    while (reader.next(entry)) {
    }
    EXPECT_EQ(reader.end(), first.size()) << zeros;
  }
}

TEST(Cpio, LibarchiveReadsWhatWeWrite) {
  CpioWriter writer;
  writer.directory("b");
  for (const auto& [name, content] : sample)
    writer.file(name, content);
  const std::string out = writer.finish();
  EXPECT_EQ(out.size() % 512, 0U);
  archive* a = ::archive_read_new();
  ::archive_read_support_format_cpio(a);
  ASSERT_EQ(::archive_read_open_memory(a, out.data(), out.size()), ARCHIVE_OK);
  std::map<std::string, std::string> files;
  archive_entry* entry = nullptr;
  while (::archive_read_next_header(a, &entry) == ARCHIVE_OK) {
    std::string content(static_cast<std::size_t>(::archive_entry_size(entry)), '\0');
    ::archive_read_data(a, content.data(), content.size());
    files[::archive_entry_pathname(entry)] = ::archive_entry_filetype(entry) == S_IFDIR ? "directory" : content;
  }
  ::archive_read_free(a);
  auto expected = sample;
  expected["b"] = "directory";
  EXPECT_EQ(files, expected);
}

TEST(Cpio, DamageIsRefusedWhereverItIs) {
  const std::string good = archive_of({{"name", "content"}});
  std::string bad_magic = good, bad_number = good, long_name = good, long_file = good;
  bad_magic.replace(0, 6, "070707");
  bad_number[6 + 6 * 8 + 2] = 'x';
  long_name.replace(6 + 11 * 8, 8, "0FFFFFFF");
  long_file.replace(6 + 6 * 8, 8, "FFFFFFFF");
  for (const auto& bad :
       {bad_magic, bad_number, long_name, long_file, good.substr(0, 50), good.substr(0, 115), good.substr(0, 120)}) {
    SCOPED_TRACE(bad.substr(0, 110) + " of " + std::to_string(bad.size()) + " bytes");
    try {
      (void)read_all(bad);
      ADD_FAILURE() << "read";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), "INITRAMFS_UNREADABLE");
    }
  }
}

} // namespace
} // namespace kvmport::test
