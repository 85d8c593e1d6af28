// SPDX-License-Identifier: Apache-2.0
#include "libconvert/machine/text.h"

#include "libconvert/machine/manifest.h"
#include "libconvert/machine/xml_util.h"
#include "tests/machine/support.h"

namespace kvmport {
namespace {

TEST(Text, ByteUnits) {
  const std::pair<const char*, std::optional<std::uint64_t>> rows[] = {{"byte", 1},
                                                                       {"byte * 2^20", 1U << 20},
                                                                       {"byte*2^30", 1U << 30},
                                                                       {" Byte * 1024 ", 1024},
                                                                       {"byte * 10^6", 1000000},
                                                                       {"byte * 2^10 * 2^10", 1U << 20},
                                                                       {"MegaBytes", 1U << 20},
                                                                       {"MB", 1U << 20},
                                                                       {"GigaBytes", 1U << 30},
                                                                       {"KiB", 1024},
                                                                       {"hertz * 10^6", std::nullopt},
                                                                       {"byte * 2^64", std::nullopt},
                                                                       {"byte * 2^63", std::nullopt},
                                                                       {"byte * -2", std::nullopt},
                                                                       {"byte *", std::nullopt},
                                                                       {"byte 2", std::nullopt},
                                                                       {"", std::nullopt}};
  for (const auto& [text, factor] : rows)
    EXPECT_EQ(parse_byte_unit(text), factor) << text;
}

TEST(Text, MacAddresses) {
  EXPECT_EQ(parse_mac("00:0C:29:aB:00:01"), "00:0c:29:ab:00:01");
  EXPECT_EQ(parse_mac("080027ABCDEF"), "08:00:27:ab:cd:ef");
  EXPECT_EQ(parse_mac("08-00-27-AB-CD-EF"), "08:00:27:ab:cd:ef");
  for (const char* bad : {"", "00:00:00:00:00:00", "01:00:5e:00:00:01", "00:0c:29:ab:00", "0:00c:29:ab:00:01",
                          "00:0c:29:ab:00:0g", "00:0c:29:ab:00:01:02"})
    EXPECT_EQ(parse_mac(bad), std::nullopt) << bad;
}

TEST(Text, Uuids) {
  const std::string plain = "564d7088-01a1-9832-e72b-6790c73b64ea";
  EXPECT_EQ(parse_uuid("56 4d 70 88 01 a1 98 32-e7 2b 67 90 c7 3b 64 ea"), plain);
  EXPECT_EQ(parse_uuid("{564D7088-01A1-9832-E72B-6790C73B64EA}"), plain);
  for (const char* bad :
       {"", "00000000-0000-0000-0000-000000000000", "564d7088", "564d7088-01a1-9832-e72b-6790c73b64ez"})
    EXPECT_EQ(parse_uuid(bad), std::nullopt) << bad;
}

TEST(Text, Encodings) {
  using namespace std::string_view_literals;
  EXPECT_EQ(to_utf8("\xC4\xE3\xBA\xC3"sv, "GBK"), "你好");
  EXPECT_EQ(to_utf8("caf\xE9"sv, "windows-1252"), "café");
  EXPECT_EQ(to_utf8("<\0a\0>\0"sv, "utf-16le"), "<a>");
  EXPECT_EQ(to_utf8("caf\xE9"sv, "utf-8"), std::nullopt);
  EXPECT_EQ(to_utf8("a", "no-such-encoding"), std::nullopt);
  EXPECT_EQ(to_utf8("a", "utf-7"), std::nullopt);
  EXPECT_EQ(to_utf8("a", "UTF-8//IGNORE"), std::nullopt);
  const std::string large(100'000, 'x');
  EXPECT_EQ(to_utf8(large, "utf-8"), large);
}

TEST(Text, CleanAndPrintable) {
  const std::pair<std::string, std::string> rows[] = {{"plain é 你 😀", "plain é 你 😀"},
                                                      {"a\x01"
                                                       "b\x7F",
                                                       "a?b?"},
                                                      {"\xC3(", "?("},
                                                      {"\xED\xA0\x80", "???"},
                                                      {"\xC0\xAF", "??"},
                                                      {"\xF4\x90\x80\x80", "????"},
                                                      {"cut \xE4\xBD", "cut ??"},
                                                      {"line\nline\t", "line\nline\t"},
                                                      {"\xEF\xBF\xBF", "???"}};
  for (const auto& [in, out] : rows)
    EXPECT_EQ(clean_utf8(in), out);
  EXPECT_EQ(printable("a\nb\tc"), "a b c");
  EXPECT_EQ(printable("12345678", 8), "12345678");
  EXPECT_EQ(printable("123456789", 8), "12345678...");
  EXPECT_EQ(printable("1234567你", 8), "1234567...");
  EXPECT_EQ(printable("你", 1), "...");
}

TEST(Text, PercentEscapes) {
  EXPECT_EQ(percent_decoded("a%20b%2Fc"), "a b/c");
  EXPECT_EQ(percent_decoded("a%2"), std::nullopt);
  EXPECT_EQ(percent_decoded("%00"), std::nullopt);
}

TEST(Xml, BoundsAndEncodings) {
  EXPECT_EQ(text_of(parse_xml("<a>x</a>", "t")->RootElement()), "x");
  using namespace std::string_literals;
  EXPECT_EQ(text_of(parse_xml("\xFF\xFE<\0a\0>\0\xE9\0<\0/\0a\0>\0"s, "t")->RootElement()), "é");
  EXPECT_EQ(text_of(parse_xml("<?xml version='1.0' encoding='ISO-8859-1'?><a>\xE9</a>", "t")->RootElement()), "é");
  std::string deep, many = "<a>";
  for (int i = 0; i < 201; i++)
    deep += "<a>";
  for (int i = 0; i < 201; i++)
    deep += "</a>";
  for (int i = 0; i < 500'000; i++)
    many += "<b/>";
  many += "</a>";
  const std::string bad[] = {"",
                             "x",
                             "<a>",
                             "<!DOCTYPE a><a/>",
                             "<!DOCTYPE a [<!ENTITY x 'y'>]><a>&x;</a>",
                             "<a>\xFF</a>",
                             "<?xml version='1.0' encoding='utf-7'?><a/>",
                             "<a>\0</a>"s,
                             deep,
                             many,
                             std::string(max_description + 1, ' ')};
  for (const std::string& text : bad)
    EXPECT_EQ(test::error_code([&] { parse_xml(text, "t"); }), "DESCRIPTION_INVALID") << text.substr(0, 60);
}

TEST(Manifest, Forms) {
  const std::string sha1(40, 'A'), sha256(64, 'b'), sha512(128, 'c');
  const Manifest m =
      parse_manifest("SHA1(a.ovf)= " + sha1 + "\r\nSHA256 (b (1).vmdk) =" + sha256 + "\n\nsha512(c)=" + sha512, "m");
  EXPECT_EQ(m.at("a.ovf"), "sha1:" + std::string(40, 'a'));
  EXPECT_EQ(m.at("b (1).vmdk"), "sha256:" + sha256);
  EXPECT_EQ(m.at("c"), "sha512:" + sha512);
  EXPECT_EQ(parse_manifest("SHA1(a)= " + sha1 + "\nSHA256(a)= " + sha256 + "\nSHA1(a)= " + sha1, "m").at("a"),
            "sha256:" + sha256);
  for (const std::string& bad :
       {"MD5(a)= " + std::string(32, 'a'), "SHA256(a)= " + sha1, std::string("nonsense"),
        "SHA1(a)= " + std::string(40, 'g'), "SHA1(a)= " + sha1 + "\nSHA1(a)= " + std::string(40, 'd')})
    EXPECT_EQ(test::error_code([&] { parse_manifest(bad, "m"); }), "DESCRIPTION_INVALID") << bad;
  EXPECT_EQ(digest_of("abc", "sha1:"), "sha1:a9993e364706816aba3e25717850c26c9cd0d89d");
}

TEST(Names, DisksAreCalledAsTheKernelCallsThem) {
  Machine m;
  const std::pair<ControllerType, unsigned> controllers[] = {{ControllerType::scsi, 0}, {ControllerType::virtio_blk, 0},
                                                             {ControllerType::ide, 0},  {ControllerType::nvme, 3},
                                                             {ControllerType::nvme, 7}, {ControllerType::xen, 0},
                                                             {ControllerType::sata, 0}, {ControllerType::unknown, 0}};
  for (const auto& [type, index] : controllers) {
    MachineDisk disk;
    disk.controller = type, disk.controller_index = index;
    m.disks.push_back(disk);
  }
  m.disks[4].unit = 1;
  name_source_disks(m);
  const char* expected[] = {"sda", "vda", "sdb", "nvme0n1", "nvme1n2", "xvda", "sdc", "sdd"};
  for (std::size_t i = 0; i < m.disks.size(); i++)
    EXPECT_EQ(m.disks[i].source_name, expected[i]) << i;
  Machine many;
  many.disks.resize(703);
  name_source_disks(many);
  EXPECT_EQ(many.disks[25].source_name, "sdz");
  EXPECT_EQ(many.disks[26].source_name, "sdaa");
  EXPECT_EQ(many.disks[701].source_name, "sdzz");
  EXPECT_EQ(many.disks[702].source_name, "sdaaa");
}

} // namespace
} // namespace kvmport
