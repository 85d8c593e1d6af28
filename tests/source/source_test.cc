// SPDX-License-Identifier: Apache-2.0
#include "libconvert/source/source.h"

#include "base/process.h"
#include "libconvert/source/unpack.h"
#include "tests/source/support.h"

#include <algorithm>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

namespace fs = std::filesystem;

namespace kvmport {
namespace {

using test::error_code;

class SourceTest : public ::testing::Test {
 protected:
  static constexpr std::uint64_t disk_size = 3U << 20;

  void SetUp() override { test::make_pattern_file(dir.path() / "disk.raw", disk_size, 7); }
  fs::path at(const std::string& name) const { return dir.path() / name; }
  fs::path convert(const std::string& format, const std::string& name, const std::string& options = "") {
    std::vector<std::string> argv = {"qemu-img", "convert", "-f", "raw", "-O", format};
    if (!options.empty())
      argv.insert(argv.end(), {"-o", options});
    argv.insert(argv.end(), {at("disk.raw").string(), at(name).string()});
    test::must_run(argv);
    return at(name);
  }
  Source open(const std::vector<fs::path>& paths, SourceOptions options = {}) {
    options.read.saved_state_directories = {at("save")};
    NullSink sink;
    return open_source_machine(paths, options, sink);
  }
  std::string code(const std::vector<fs::path>& paths, const SourceOptions& options = {}) {
    return error_code([&] { open(paths, options); });
  }
  /// Everything that the image reads.
  static std::string content(const Image& image) {
    std::string bytes(image.size(), '\0');
    image.read(0, std::as_writable_bytes(std::span(bytes)));
    return bytes;
  }
  std::string raw() const { return read_file(at("disk.raw")); }
  void write(const std::string& name, const std::string& text) { write_file_durably(at(name), text); }
  /// An OVA with this disk file inside.
  fs::path make_ova(const std::string& disk, const test::OvfText& ovf, const std::string& manifest = "sha256") {
    const std::string bytes = read_file(at(disk), 1U << 30);
    write_file_durably(at("vm.ova"), test::ova_bytes(disk, bytes, ovf, manifest));
    return at("vm.ova");
  }

  TempDir dir;
};

TEST_F(SourceTest, BareDisks) {
  convert("qcow2", "my disk.qcow2");
  const Source source = open({at("my disk.qcow2"), at("disk.raw")});
  EXPECT_EQ(source.machine.name, "my disk");
  EXPECT_EQ(source.machine.source_type, "disk");
  EXPECT_EQ(source.machine.memory, 0U);
  ASSERT_EQ(source.images.size(), 2U);
  EXPECT_EQ(source.images[0]->info().format, "qcow2");
  EXPECT_EQ(source.images[1]->info().format, "raw");
  EXPECT_EQ(content(*source.images[0]), raw());
  EXPECT_EQ(content(*source.images[1]), raw());
  EXPECT_EQ(source.machine.disks[0].capacity, disk_size);
  EXPECT_EQ(source.machine.disks[1].source_name, "sdb");
  SourceOptions options;
  options.input_format = "raw";
  const Source forced = open({at("my disk.qcow2")}, options);
  EXPECT_EQ(forced.images[0]->info().format, "raw");
}

TEST_F(SourceTest, KindIsToldByContent) {
  const std::pair<std::string, SourceKind> texts[] = {
      {"<?xml version='1.0'?><Envelope/>", SourceKind::ovf},
      {"\xEF\xBB\xBF<ovf:Envelope xmlns:ovf='x'/>", SourceKind::ovf},
      {std::string("\xFF\xFE<\0d\0o\0m\0a\0i\0n\0/\0>\0", 20), SourceKind::libvirt},
      {"  \n<domain type='kvm'/>", SourceKind::libvirt},
      {"<!-- x --><VirtualBox/>", SourceKind::vbox},
      {".encoding = \"UTF-8\"\nconfig.version = \"8\"\n", SourceKind::vmx},
      {"displayname=\"x\"\n", SourceKind::vmx},
      {"# Disk DescriptorFile\nversion=1\nencoding=\"UTF-8\"\nCID=123\n", SourceKind::disk},
      {"just text", SourceKind::disk},
      {std::string(4096, '\0'), SourceKind::disk}};
  for (const auto& [text, kind] : texts) {
    write("f.bin", text);
    EXPECT_EQ(source_kind(at("f.bin")), kind) << text.substr(0, 40);
  }
  write("f.bin", test::ova_bytes("d", "x", {}, ""));
  EXPECT_EQ(source_kind(at("f.bin")), SourceKind::ova);
  for (const std::string text : {"<html/>", "\x1F\x8B\x08 packed", "PK\x03\x04 packed", "<!DOCTYPE x><domain/>"}) {
    write("f.bin", text);
    EXPECT_NE(error_code([&] { source_kind(at("f.bin")); }), "") << text;
  }
  ::mkfifo(at("fifo").c_str(), 0600);
  EXPECT_EQ(code({at("fifo")}), "NOT_A_DISK");
  EXPECT_EQ(code({at("gone")}), "NOT_FOUND");
  EXPECT_EQ(code({}), "USAGE");
}

TEST_F(SourceTest, OvaIsReadInPlace) {
  for (const char* format : {"raw", "qcow2", "vmdk"}) {
    SCOPED_TRACE(format);
    const std::string name = std::string("d.") + format;
    convert(format, name, std::string(format) == "vmdk" ? "subformat=streamOptimized" : "");
    test::OvfText ovf;
    ovf.format = std::string("http://x/") + format + ".html";
    make_ova(name, ovf);
    const std::string before = test::sha256_of(at("vm.ova"));
    const Source source = open({at("vm.ova")});
    ASSERT_EQ(source.images.size(), 1U);
    EXPECT_EQ(content(*source.images[0]), raw());
    StopToken stop;
    EXPECT_NO_THROW(verify_digests(source.machine, stop)());
    EXPECT_EQ(test::sha256_of(at("vm.ova")), before);
    fs::remove(at("vm.ova"));
  }
}

TEST_F(SourceTest, ManifestIsVerifiedBesideTheCopy) {
  convert("qcow2", "d.qcow2");
  make_ova("d.qcow2", {}, "sha1");
  Source source = open({at("vm.ova")});
  StopToken stop;
  const auto good = verify_digests(source.machine, stop);
  EXPECT_NO_THROW(good());
  EXPECT_NO_THROW(good());
  // One bit of the disk, far from what the reader looks at when it opens.
  {
    const UniqueFd fd = open_existing(at("vm.ova"));
    const Range window = source.machine.disks[0].window;
    std::byte byte;
    read_exact(fd.get(), window.end() - 1, std::span(&byte, 1), "t");
    byte ^= std::byte{1};
    write_exact(fd.get(), window.end() - 1, std::span(&byte, 1), "t");
  }
  source = open({at("vm.ova")});
  EXPECT_EQ(error_code([&] { verify_digests(source.machine, stop)(); }), "MANIFEST_MISMATCH");
  stop.request();
  EXPECT_EQ(error_code([&] { verify_digests(source.machine, stop)(); }), "INTERRUPTED");
  StopToken other;
  { const auto abandoned = verify_digests(source.machine, other); }
  Machine nothing;
  EXPECT_NO_THROW(verify_digests(nothing, stop)());
}

TEST_F(SourceTest, GzipAndChunksAreUnpackedToUnnamedFiles) {
  convert("qcow2", "d.img");
  test::must_run({"gzip", "-k", at("d.img").string()});
  test::OvfText ovf;
  ovf.file_attributes = R"(ovf:compression="gzip")";
  ovf.capacity = disk_size;
  make_ova("d.img.gz", ovf);
  Source source = open({at("vm.ova")});
  EXPECT_EQ(content(*source.images[0]), raw());
  EXPECT_NE(std::find_if(source.machine.notes.begin(), source.machine.notes.end(),
                         [](const std::string& n) { return n.find("unpacked") != std::string::npos; }),
            source.machine.notes.end());

  test::must_run({"split", "-b", "1000000", "-d", "-a", "9", at("disk.raw").string(), at("c.img.").string()});
  ovf = {};
  ovf.file_attributes = R"(ovf:chunkSize="1000000")";
  write("vm.ovf", ovf.text("c.img"));
  source = open({at("vm.ovf")});
  EXPECT_EQ(source.machine.disks[0].more_pieces.size(), 3U);
  EXPECT_EQ(content(*source.images[0]), raw());
}

TEST_F(SourceTest, GzipIsBoundedAndChecked) {
  NullSink sink;
  const auto unpack = [&](const std::string& name, std::uint64_t capacity) {
    MachineDisk disk;
    disk.path = at(name);
    disk.gzip = true;
    disk.capacity = capacity;
    return error_code([&] { unpack_disk(disk, dir.path(), sink); });
  };
  {
    const UniqueFd fd = create_new(at("zeros"));
    ASSERT_EQ(::ftruncate(fd.get(), 40 << 20), 0);
  }
  test::must_run({"gzip", at("zeros").string()});
  EXPECT_EQ(unpack("zeros.gz", 1 << 20), "DISK_TOO_LARGE");
  EXPECT_EQ(unpack("zeros.gz", 40 << 20), "");
  EXPECT_EQ(unpack("zeros.gz", 0), "");
  std::string packed = read_file(at("zeros.gz"));
  write("cut.gz", packed.substr(0, packed.size() / 2));
  EXPECT_EQ(unpack("cut.gz", 40 << 20), "DISK_TRUNCATED");
  write("empty.gz", "");
  EXPECT_EQ(unpack("empty.gz", 40 << 20), "DISK_TRUNCATED");
  packed[packed.size() - 6] ^= 1; // the checksum
  write("bad.gz", packed);
  EXPECT_EQ(unpack("bad.gz", 40 << 20), "IMAGE_CORRUPT");
  write("no.gz", "this is no gzip stream at all");
  EXPECT_EQ(unpack("no.gz", 40 << 20), "IMAGE_CORRUPT");
}

TEST_F(SourceTest, BlankDiskReadsAsZeros) {
  test::OvfText ovf;
  ovf.capacity = 5 << 20;
  ovf.blank = true;
  write("vm.ovf", ovf.text("none"));
  const Source source = open({at("vm.ovf")});
  ASSERT_EQ(source.images.size(), 1U);
  EXPECT_EQ(source.images[0]->size(), 5U << 20);
  EXPECT_EQ(content(*source.images[0]), std::string(5 << 20, '\0'));
  EXPECT_EQ(source.images[0]->extents({0, 5 << 20}), (std::vector<Extent>{{{0, 5 << 20}, ExtentKind::unallocated}}));
  const SourceGuard guard(source);
  EXPECT_NO_THROW(guard.check());
}

TEST_F(SourceTest, DescriptionsOfEveryKindOpenTheirDisks) {
  convert("qcow2", "d.qcow2");
  write("d.xml", "<domain type='kvm'><name>x</name><memory>1048576</memory><os><type>hvm</type></os><devices><disk "
                 "type='file'><driver type='qcow2'/>"
                 "<source file='d.qcow2'/><target dev='vda' bus='virtio'/></disk></devices></domain>");
  EXPECT_EQ(content(*open({at("d.xml")}).images.at(0)), raw());
  convert("vmdk", "d.vmdk");
  write("d.vmx",
        "config.version = \"8\"\nmemsize = \"64\"\nscsi0:0.present = \"TRUE\"\nscsi0:0.fileName = \"d.vmdk\"\n");
  EXPECT_EQ(content(*open({at("d.vmx")}).images.at(0)), raw());
  convert("vdi", "d.vdi");
  write("d.vbox",
        "<VirtualBox><Machine name='v'><MediaRegistry><HardDisks><HardDisk "
        "uuid='{564d7088-01a1-9832-e72b-6790c73b64ea}' location='d.vdi' format='VDI'/></HardDisks></MediaRegistry>"
        "<Hardware><Memory RAMSize='64'/></Hardware><StorageControllers><StorageController type='AHCI'><AttachedDevice "
        "type='HardDisk' port='0'>"
        "<Image "
        "uuid='{564d7088-01a1-9832-e72b-6790c73b64ea}'/></AttachedDevice></StorageController></StorageControllers></"
        "Machine></VirtualBox>");
  EXPECT_EQ(content(*open({at("d.vbox")}).images.at(0)), raw());
  EXPECT_EQ(code({at("d.vbox"), at("disk.raw")}), "USAGE");
}

TEST_F(SourceTest, IncompleteSnapshotChain) {
  convert("qcow2", "base.qcow2");
  test::must_run(
      {"qemu-img", "create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", at("snap.qcow2").string()},
      dir.path());
  write("d.xml", "<domain type='kvm'><name>x</name><memory>1048576</memory><os><type>hvm</type></os><devices><disk "
                 "type='file'><driver type='qcow2'/>"
                 "<source file='snap.qcow2'/><target dev='vda' bus='virtio'/></disk></devices></domain>");
  EXPECT_EQ(content(*open({at("d.xml")}).images.at(0)), raw());
  fs::rename(at("base.qcow2"), at("moved.qcow2"));
  EXPECT_EQ(code({at("d.xml")}), "SNAPSHOT_CHAIN_INCOMPLETE");
  EXPECT_EQ(code({at("snap.qcow2")}), "PARENT_MISSING");
}

TEST_F(SourceTest, VmwareSnapshotNeedsItsBase) {
  convert("vmdk", "vm.vmdk");
  test::must_run(
      {"qemu-img", "create", "-q", "-f", "vmdk", "-b", "vm.vmdk", "-F", "vmdk", at("vm-000001.vmdk").string()},
      dir.path());
  write(
      "vm.vmx",
      "config.version = \"8\"\nmemsize = \"64\"\nscsi0:0.present = \"TRUE\"\nscsi0:0.fileName = \"vm-000001.vmdk\"\n");
  const Source source = open({at("vm.vmx")});
  EXPECT_EQ(content(*source.images.at(0)), raw());
  EXPECT_EQ(source.images[0]->info().files.size(), 2U);
  fs::remove(at("vm.vmdk"));
  EXPECT_EQ(code({at("vm.vmx")}), "SNAPSHOT_CHAIN_INCOMPLETE");
}

TEST_F(SourceTest, GuardSeesEveryChange) {
  convert("qcow2", "d.qcow2");
  const Source source = open({at("d.qcow2"), at("disk.raw")});
  {
    const SourceGuard guard(source);
    EXPECT_NO_THROW(guard.check());
    fs::last_write_time(at("d.qcow2"), fs::last_write_time(at("d.qcow2")) + std::chrono::seconds(1));
    EXPECT_EQ(error_code([&] { guard.check(); }), "SOURCE_CHANGED");
  }
  {
    const SourceGuard guard(source);
    const auto time = fs::last_write_time(at("disk.raw"));
    fs::resize_file(at("disk.raw"), disk_size + 512);
    fs::last_write_time(at("disk.raw"), time);
    EXPECT_EQ(error_code([&] { guard.check(); }), "SOURCE_CHANGED");
  }
  {
    const SourceGuard guard(source);
    fs::copy(at("d.qcow2"), at("copy"));
    fs::last_write_time(at("copy"), fs::last_write_time(at("d.qcow2")));
    fs::rename(at("copy"), at("d.qcow2"));
    EXPECT_EQ(error_code([&] { guard.check(); }), "SOURCE_CHANGED");
  }
  const SourceGuard guard(source);
  fs::remove(at("d.qcow2"));
  EXPECT_EQ(error_code([&] { guard.check(); }), "SOURCE_CHANGED");
}

/// qemu-nbd with the image open, ready when it answers.
class Holder {
 public:
  Holder(const fs::path& image, const std::string& format, const fs::path& socket, bool read_only)
      : child_(argv(image, format, socket, read_only), {}) {
    const std::string url = "nbd+unix:///?socket=" + socket.string();
    while (run_process({"qemu-img", "info", url}, std::chrono::minutes(1)).exit_code != 0)
      if (child_.wait(std::chrono::milliseconds(50)))
        throw std::runtime_error("qemu-nbd did not start");
  }

 private:
  static std::vector<std::string> argv(const fs::path& image, const std::string& format, const fs::path& socket,
                                       bool read_only) {
    std::vector<std::string> list = {"qemu-nbd", "--persistent", "-f", format, "-k", socket.string()};
    if (read_only)
      list.push_back("--read-only");
    list.push_back(image.string());
    return list;
  }
  Child child_;
};

TEST_F(SourceTest, ImageInUseByQemuIsRefused) {
  convert("qcow2", "d.qcow2");
  write("d.xml", "<domain type='kvm'><name>x</name><memory>1048576</memory><os><type>hvm</type></os><devices><disk "
                 "type='file'><driver type='qcow2'/>"
                 "<source file='d.qcow2'/><target dev='vda' bus='virtio'/></disk></devices></domain>");
  {
    const Holder holder(at("d.qcow2"), "qcow2", at("w.sock"), false);
    EXPECT_EQ(code({at("d.qcow2")}), "SOURCE_RUNNING");
    EXPECT_EQ(code({at("d.xml")}), "SOURCE_RUNNING");
    EXPECT_EQ(code({at("disk.raw")}), "");
  }
  {
    const Holder holder(at("disk.raw"), "raw", at("raw.sock"), false);
    EXPECT_EQ(code({at("disk.raw")}), "SOURCE_RUNNING");
  }
  const Holder reader(at("d.qcow2"), "qcow2", at("r.sock"), true);
  EXPECT_EQ(code({at("d.qcow2")}), "");
}

} // namespace
} // namespace kvmport
