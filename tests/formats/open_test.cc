// SPDX-License-Identifier: Apache-2.0
// Formats are told by content; names that stand in images lead nowhere but to the directories that the user named.
#include "tests/formats/editing.h"

#include <sys/stat.h>
#include <unistd.h>

namespace fs = std::filesystem;

namespace kvmport::test {
namespace {

class Open : public testing::Test {
 protected:
  fs::path put(const std::string& name, std::string_view text) {
    save_text(dir_.path() / name, text);
    return dir_.path() / name;
  }
  /// A descriptor of one flat extent of 8 sectors, with a parent when `parent` is not empty.
  fs::path descriptor(const std::string& name, const std::string& extent, const std::string& parent = {},
                      const std::string& parent_cid = "ffffffff") {
    return put(name, "# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID=" + parent_cid + "\n" +
                         (parent.empty() ? "" : "parentFileNameHint=\"" + parent + "\"\n") +
                         "createType=\"monolithicFlat\"\nRW 8 FLAT \"" + extent + "\" 0\n");
  }
  TempDir dir_, other_;
};

TEST_F(Open, ContentTellsTheFormatAndNamesDoNot) {
  std::string tar(1024, '\0');
  tar.replace(257, 5, "ustar");
  std::string dmg(1024, '\0');
  dmg.replace(512, 12, std::string_view("koly\0\0\0\4\0\0\2\0", 12));
  std::string vdi(512, '\0');
  vdi.replace(64, 4, "\x7f\x10\xda\xbe");
  struct Case {
    std::string content, format;
  };
  for (const Case& c : {Case{std::string("QFI\xfb\0\0\0\3", 8), "qcow2"},
                        Case{std::string("QFI\xfb\0\0\0\1", 8), "qcow1"},
                        Case{"KDMV\1\2\3\4", "vmdk"},
                        Case{"# Disk DescriptorFile\n", "vmdk"},
                        Case{"\xef\xbb\xbf\r\n  # disk descriptorFILE", "vmdk"},
                        Case{vdi, "vdi"},
                        Case{"vhdxfile", "vhdx"},
                        Case{"conectix", "vhd"},
                        Case{std::string("QED\0", 4), "qed"},
                        Case{"WithoutFreeSpace", "parallels"},
                        Case{"WithouFreSpacExt", "parallels"},
                        Case{dmg, "dmg"},
                        Case{tar, "tar"},
                        Case{"\x1f\x8b\x08", "gzip"},
                        Case{std::string("COWD\1\0\0\0", 8), "vmfsSparse VMDK"},
                        Case{std::string("\xbe\xba\xfe\xca\0\0\0\0", 8), "seSparse VMDK"},
                        Case{std::string("EVF\x09\x0d\x0a\xff\0", 8), "ewf"},
                        Case{"Bochs Virtual HD Image", "bochs"},
                        Case{"#!/bin/sh\n#V2.0 Format\n", "cloop"},
                        Case{"MZ", "raw"},
                        Case{"KDM", "raw"},
                        Case{"# Disk Descriptor", "raw"},
                        Case{std::string(4096, '\0'), "raw"}}) {
    const fs::path path = put("disk.qcow2", c.content);
    EXPECT_EQ(probe_format(path), c.format);
    const std::set<std::string> read{"raw", "qcow2", "vmdk", "vdi", "vhd", "vhdx"};
    if (!read.contains(c.format)) {
      const std::string text = expect_error("FORMAT_UNSUPPORTED", [&] { open_image(path); });
      EXPECT_NE(text.find(c.format), std::string::npos) << text;
    }
  }
  expect_error("FORMAT_UNKNOWN", [&] { open_image(put("empty", "")); });
}

TEST_F(Open, AFileThatLooksLikeTwoFormatsIsRefused) {
  std::string both(512, '\0');
  both.replace(0, 4, "KDMV");
  both.replace(64, 4, "\x7f\x10\xda\xbe");
  const fs::path path = put("disk", both);
  const std::string text = expect_error("FORMAT_AMBIGUOUS", [&] { probe_format(path); });
  EXPECT_NE(text.find("vmdk, vdi"), std::string::npos) << text;
  expect_error("FORMAT_AMBIGUOUS", [&] { open_image(path); });
  OpenOptions options;
  options.format = "raw";
  EXPECT_EQ(open_image(path, options)->size(), 512U);
}

TEST_F(Open, TheNamedFormatIsFollowed) {
  const fs::path path = dir_.path() / "disk.qcow2";
  qemu_create(path, "qcow2", "64M");
  EXPECT_EQ(open_image(path)->size(), 64U << 20);
  OpenOptions options;
  options.format = "raw";
  EXPECT_EQ(open_image(path, options)->size(), fs::file_size(path));
  options.format = "vmdk";
  expect_error("IMAGE_CORRUPT", [&] { open_image(path, options); });
  options.format = "vpc";
  expect_error("IMAGE_CORRUPT", [&] { open_image(path, options); });
  options.format = "floppy";
  expect_error("FORMAT_UNKNOWN", [&] { open_image(path, options); });
}

TEST_F(Open, AWindowHoldsAnImage) {
  qemu_create(dir_.path() / "inner", "qcow2", "3M");
  qemu_io(dir_.path() / "inner", "qcow2", {"write -P 9 1M 64k"});
  const Bytes inner = load_file(dir_.path() / "inner");
  Bytes outer = random_bytes(1536, 1);
  outer.insert(outer.end(), inner.begin(), inner.end());
  const Bytes tail = random_bytes(700, 2);
  outer.insert(outer.end(), tail.begin(), tail.end());
  save_file(dir_.path() / "outer", outer);
  OpenOptions options;
  options.window = {1536, inner.size()};
  EXPECT_EQ(probe_format(dir_.path() / "outer", options), "qcow2");
  expect_fill(*open_image(dir_.path() / "outer", options), 1U << 20, 65536, 9);
  options.window = {1536, outer.size()};
  expect_error("DISK_TRUNCATED", [&] { open_image(dir_.path() / "outer", options); });
}

TEST_F(Open, ExtentsMayLieBesideTheirDescriptorOnly) {
  save_file(dir_.path() / "flat bytes.vmdk", random_bytes(4096, 3));
  save_file(other_.path() / "secret", random_bytes(4096, 4));
  fs::create_directory(dir_.path() / "sub");
  save_file(dir_.path() / "sub" / "flat", random_bytes(4096, 5));
  EXPECT_EQ(read_everything(descriptor("d.vmdk", "flat bytes.vmdk")), random_bytes(4096, 3));
  EXPECT_EQ(read_everything(descriptor("d.vmdk", "sub/flat")), random_bytes(4096, 5));
  EXPECT_EQ(read_everything(descriptor("d.vmdk", (dir_.path() / "sub/../flat bytes.vmdk").string())),
            random_bytes(4096, 3));
  const std::string secret = (other_.path() / "secret").string();
  fs::create_symlink(secret, dir_.path() / "link");
  fs::create_symlink(other_.path(), dir_.path() / "dirlink");
  for (const std::string& name :
       {secret, std::string("../") + other_.path().filename().string() + "/secret", std::string("link"),
        std::string("dirlink/secret"), std::string("/etc/passwd"), std::string("/proc/self/fd/0"),
        std::string("nbd://127.0.0.1:1/x"), std::string("json:{\"driver\":\"file\",\"filename\":\"/etc/passwd\"}"),
        std::string("..")}) {
    SCOPED_TRACE(name);
    const std::string text = expect_error("PATH_NOT_ALLOWED", [&] { open_image(descriptor("d.vmdk", name)); });
    EXPECT_NE(text.find("d.vmdk"), std::string::npos) << text;
  }
  OpenOptions options;
  options.allowed_directories = {other_.path()};
  for (const std::string& name : {secret, std::string("link"), std::string("dirlink/secret")})
    EXPECT_EQ(read_all(*open_image(descriptor("d.vmdk", name), options), 0, 4096), random_bytes(4096, 4));
  expect_error("PATH_NOT_ALLOWED", [&] { open_image(descriptor("d.vmdk", "/etc/passwd"), options); });
}

TEST_F(Open, WhatIsNoFileIsNeverOpened) {
  ASSERT_EQ(::mkfifo((dir_.path() / "fifo").c_str(), 0600), 0);
  fs::create_directory(dir_.path() / "directory");
  expect_error("NOT_A_DISK", [&] { open_image(descriptor("d.vmdk", "fifo")); });
  expect_error("NOT_A_DISK", [&] { open_image(descriptor("d.vmdk", "directory")); });
  expect_error("PARENT_MISSING", [&] { open_image(descriptor("d.vmdk", "nothing")); });
  expect_error("NOT_A_DISK", [&] { open_image(dir_.path() / "fifo"); });
  expect_error("NOT_FOUND", [&] { open_image(dir_.path() / "nothing"); });
}

TEST_F(Open, LoopsAndEndlessChainsAreRefused) {
  save_file(dir_.path() / "flat", Bytes(4096));
  expect_error("CHAIN_LOOP", [&] { open_image(descriptor("self.vmdk", "flat", "self.vmdk", "12345678")); });
  descriptor("a.vmdk", "flat", "b.vmdk", "12345678");
  descriptor("b.vmdk", "flat", "a.vmdk", "12345678");
  expect_error("CHAIN_LOOP", [&] { open_image(dir_.path() / "a.vmdk"); });
  // A second name of one file is the same file.
  ASSERT_EQ(::link((dir_.path() / "a.vmdk").c_str(), (dir_.path() / "a2.vmdk").c_str()), 0);
  expect_error("CHAIN_LOOP", [&] { open_image(dir_.path() / "a2.vmdk"); });
  descriptor("n0.vmdk", "flat");
  for (int i = 1; i <= 70; i++)
    descriptor("n" + std::to_string(i) + ".vmdk", "flat", "n" + std::to_string(i - 1) + ".vmdk", "12345678");
  EXPECT_EQ(open_image(dir_.path() / "n30.vmdk")->info().files.size(), 62U);
  expect_error("CHAIN_LOOP", [&] { open_image(dir_.path() / "n70.vmdk"); });
}

} // namespace
} // namespace kvmport::test
