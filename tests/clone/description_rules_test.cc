// SPDX-License-Identifier: Apache-2.0
// Single rules of a clone's description on small domains: what is asked for, refused, kept, and how unusual markup
// comes out.
#include "base/error.h"
#include "libconvert/clone/clone_name.h"
#include "tests/clone/description_support.h"

#include <algorithm>

namespace kvmport {
namespace {

using namespace test;

const std::string card =
    "<interface type='network'><mac address='52:54:00:00:00:01'/><source network='n'/></interface>";

std::string refusal(const std::string& xml, const DescriptionRequest& request = {}) {
  return code_of([&] { clone_of(xml, request); });
}

TEST(CloneName, IsTheNextFreeOne) {
  TakenIdentities taken;
  for (const char* name : {"db", "db-clone", "db-clone1", "db-clone3"})
    taken.add(Identity::name, name);
  const std::string longest(max_domain_name, 'n');
  const std::pair<std::string, std::string> cases[] = {
      {"web", "web-clone"},
      {"web-clone", "web-clone1"},
      {"foo-clone9", "foo-clone10"},
      {"foo-clone10", "foo-clone11"},
      {"foo-clone99", "foo-clone100"},
      {"foo-clone09", "foo-clone10"},
      {"foo-clone0", "foo-clone1"},
      {"foo-clones", "foo-clones-clone"},
      {"foo-clone-2", "foo-clone-2-clone"},
      {"foo-clone-clone", "foo-clone-clone1"},
      {"foo-clone99999999999999999999", "foo-clone99999999999999999999-clone"},
      {"db", "db-clone2"},
      {"db-clone1", "db-clone2"},
      {"db-clone2", "db-clone4"},
      {longest, longest.substr(6) + "-clone"},
      {longest.substr(7) + "\xC3\xA4zzzzz", longest.substr(7) + "-clone"},
  };
  for (const auto& [base, next] : cases) {
    EXPECT_EQ(next_clone_name(base, taken), next) << base;
    EXPECT_NO_THROW(check_name(next));
  }
}

TEST(CloneName, IsOneThatLibvirtTakes) {
  for (const char* good : {"web", "web server", "w\xC3\xA4 <&>'\"", "-", "a.b"})
    EXPECT_NO_THROW(check_name(good)) << good;
  for (const std::string& bad :
       {std::string(), std::string(" \t"), std::string("a/b"), std::string("."), std::string(".."), std::string("a\nb"),
        std::string("a\0b", 3), std::string("\xFF"), std::string(max_domain_name + 1, 'a')})
    EXPECT_EQ(code_of([&] { check_name(bad); }), "NAME_INVALID") << bad;
}

TEST(Description, OfTheSmallestDomain) {
  DescriptionResult result = clone_of("<domain><name>web</name></domain>");
  EXPECT_EQ(result.xml, "<domain><uuid>" + result.uuid + "</uuid><name>web-clone</name></domain>");
  result = clone_of("<domain/>");
  EXPECT_EQ(result.xml, "<domain><name>web-clone</name><uuid>" + result.uuid + "</uuid></domain>");
}

TEST(Description, OfUnusualMarkup) {
  const DescriptionResult result =
      clone_of("<domain\n\ttype=\"kvm\"\n\tid = \"3\"\n><name><![CDATA[w]]>eb</name><!-- <name>no</name> -->\n"
               "<uuid>\n 3E3FCE454F534FA7BB3211F34168B82B\n</uuid><devices><interface type=\"user\"  ><mac\n"
               "address = \"52:54:00:00:00:01\" /></interface></devices ></domain>\n<!-- end -->");
  const auto mac = changes_of(result, "mac");
  ASSERT_EQ(mac.size(), 1U);
  EXPECT_EQ(mac[0].line, 8U); // of the attribute
  EXPECT_EQ(mac[0].what, "devices/interface/mac@address");
  EXPECT_EQ(result.xml, "<domain\n\ttype=\"kvm\"\n><name>web-clone</name><!-- <name>no</name> -->\n<uuid>" +
                            result.uuid + "</uuid><devices><interface type=\"user\"  ><mac\naddress = \"" +
                            mac[0].after + "\" /></interface></devices ></domain>\n<!-- end -->");
}

TEST(Description, EscapesTheName) {
  DescriptionRequest request;
  request.name = "<a> & 'b'";
  const std::string xml =
      clone_of(domain_with("<serial type='file'><source path='/log/web.log'/></serial>"), request).xml;
  EXPECT_TRUE(contains(xml, "<name>&lt;a&gt; &amp; 'b'</name>"));
  EXPECT_TRUE(contains(xml, "path='/log/&lt;a&gt; &amp; &apos;b&apos;.log'"));
}

TEST(Description, RefusesWhatIsNoDomain) {
  EXPECT_EQ(refusal("<network><name>n</name></network>"), "DESCRIPTION_INVALID");
  EXPECT_EQ(refusal("<domstatus state='running'><domain/></domstatus>"), "SOURCE_RUNNING");
  EXPECT_EQ(refusal("<!DOCTYPE domain><domain/>"), "DESCRIPTION_INVALID");
}

TEST(Description, RefusesIdentitiesOfOthers) {
  const std::string xml = domain_with(card + card),
                    other =
                        "<domain><name>other</name><uuid>11111111-2222-3333-4444-555555555555"
                        "</uuid><devices><interface><mac address='52:54:00:AA:AA:AA'/></interface></devices></domain>";
  TakenIdentities taken;
  taken.add_domain(other, "other.xml");
  auto code = [&](DescriptionRequest request) {
    if (request.name.empty())
      request.name = "web-clone";
    return code_of([&] { clone_description(xml, "web.xml", request, taken); });
  };
  DescriptionRequest request;
  request.name = "other";
  EXPECT_EQ(code(request), "NAME_IN_USE");
  request.name = "web";
  EXPECT_EQ(code(request), "NAME_IN_USE");
  request.name = "a/b";
  EXPECT_EQ(code(request), "NAME_INVALID");
  request = {};
  request.uuid = "{11111111-2222-3333-4444-555555555555}";
  EXPECT_EQ(code(request), "UUID_IN_USE");
  request.uuid = "x";
  EXPECT_EQ(code(request), "UUID_INVALID");
  request = {};
  request.macs = {"52-54-00-aa-aa-aa"};
  EXPECT_EQ(code(request), "MAC_IN_USE");
  request.macs = {"52:54:00:00:00:01"}; // the source's own
  EXPECT_EQ(code(request), "MAC_IN_USE");
  request.macs = {"52:54:00:00:00:09", "52:54:00:00:00:09"};
  EXPECT_EQ(code(request), "MAC_IN_USE");
  request.macs = {"01:00:5e:00:00:01"}; // multicast
  EXPECT_EQ(code(request), "MAC_INVALID");
  request.macs = {"52:54:00:00:00:07", "52:54:00:00:00:08", "52:54:00:00:00:09"};
  EXPECT_EQ(code(request), "MAC_INVALID");
  // What failed has claimed nothing.
  request.macs = {"52:54:00:00:00:09"};
  EXPECT_EQ(code(request), "");
  EXPECT_EQ(code(request), "NAME_IN_USE");
}

TEST(Description, TakesGivenIdentities) {
  DescriptionRequest request;
  request.uuid = "11111111222233334444555555555555";
  request.macs = {"52:54:00:AB:00:09"};
  const DescriptionResult result = clone_of(domain_with(card + card), request);
  EXPECT_EQ(result.uuid, "11111111-2222-3333-4444-555555555555");
  EXPECT_TRUE(contains(result.xml, "<uuid>11111111-2222-3333-4444-555555555555</uuid>"));
  const auto macs = changes_of(result, "mac");
  ASSERT_EQ(macs.size(), 2U);
  EXPECT_EQ(macs[0].what, "devices/interface[1]/mac@address");
  EXPECT_EQ(macs[0].after, "52:54:00:ab:00:09");
  EXPECT_EQ(macs[1].after.substr(0, 9), "52:54:00:");
}

TEST(Description, MacsOfASeedAreReproducible) {
  auto macs = [](const std::string& name, const std::string& seed, TakenIdentities taken = {}) {
    DescriptionRequest request;
    request.name = name;
    request.mac_seed = seed;
    std::vector<std::string> list;
    for (const DescriptionChange& change : changes_of(
             clone_description(domain_with(card + "<interface type='user'/>"), "web.xml", request, taken), "mac"))
      list.push_back(change.after);
    return list;
  };
  const auto first = macs("one", "s");
  ASSERT_EQ(first.size(), 2U);
  EXPECT_NE(first[0], first[1]);
  EXPECT_EQ(macs("one", "s"), first);
  EXPECT_NE(macs("two", "s")[0], first[0]);
  EXPECT_NE(macs("one", "t")[0], first[0]);
  // SHA-256 of s NUL one NUL 0 NUL 0: the same from one version to the next.
  EXPECT_EQ(first[0], "52:54:00:ef:8a:dd");
  // An address that another machine has is passed over, and the other card keeps its own.
  TakenIdentities taken;
  taken.add(Identity::mac, first[0]);
  const auto beside = macs("one", "s", taken);
  EXPECT_NE(beside[0], first[0]);
  EXPECT_EQ(beside[1], first[1]);
}

TEST(Description, RandomMacsAreFree) {
  TakenIdentities taken;
  std::set<std::string> seen;
  for (int i = 0; i < 200; i++) {
    DescriptionRequest request;
    request.name = "clone" + std::to_string(i);
    for (const DescriptionChange& change : changes_of(clone_description(domain_with(card), "w", request, taken), "mac"))
      EXPECT_TRUE(seen.insert(change.after).second);
  }
}

TEST(Description, RefusesDevicesOfTheHost) {
  for (const char* device : {"<hostdev mode='subsystem' type='pci'><source><address bus='1'/></source></hostdev>",
                             "<interface type='hostdev'><source><address type='pci' bus='1'/></source></interface>",
                             "<interface type='vdpa'><source dev='/dev/vhost-vdpa-0'/></interface>",
                             "<tpm><backend type='passthrough'><device path='/dev/tpm0'/></backend></tpm>",
                             "<input type='evdev'><source dev='/dev/input/event1'/></input>"}) {
    const std::string xml = domain_with(std::string("<panic/>\n") + device);
    try {
      clone_of(xml);
      ADD_FAILURE() << device;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), "HOSTDEV_PRESENT");
      EXPECT_TRUE(contains(error.why(), "line 9: " + std::string(device).substr(0, 10))) << error.why();
      EXPECT_TRUE(contains(error.hint(), "--keep-hostdev"));
    }
    DescriptionRequest request;
    request.keep_hostdev = true;
    const DescriptionResult result = clone_of(xml, request);
    EXPECT_TRUE(has_warning(result, "host-device", std::string(device).substr(0, 10)));
  }
}

TEST(Description, DisksThatBothWouldWriteAreRefused) {
  auto disk = [](const std::string& more) {
    return domain_with("<disk type='file' device='disk'><source file='/i/web.img'/><target dev='vda'/>" + more +
                       "</disk>");
  };
  EXPECT_EQ(refusal(disk("")), "DISK_NOT_MAPPED");
  EXPECT_EQ(refusal(disk("<readonly/>")), "");
  EXPECT_EQ(refusal(disk("<transient/>")), "");
  EXPECT_TRUE(has_warning(clone_of(disk("<shareable/>")), "disk-source", "/i/web.img"));
  EXPECT_EQ(refusal(domain_with("<disk type='file' device='cdrom'><target dev='sda'/></disk>")), "");
  EXPECT_EQ(refusal(domain_with("<disk type='nvme'><source type='pci' namespace='1'><address/></source></disk>")),
            "DISK_NOT_MAPPED");
  EXPECT_EQ(refusal(domain_with("<memory model='nvdimm'><source><path>/i/n</path></source></memory>")),
            "DISK_NOT_MAPPED");
  EXPECT_EQ(refusal(domain_with("<filesystem type='block'><source dev='/dev/vg/f'/></filesystem>")), "DISK_NOT_MAPPED");
  DescriptionRequest request;
  request.disks["vda"] = {"/i/web.img", "", false}; // the source itself
  EXPECT_EQ(refusal(disk(""), request), "PATH_IN_USE");
}

TEST(Description, DisksGetTheirNewPlaceAndFormat) {
  DescriptionRequest request;
  request.disks["vda"] = {"/new/a.qcow2", "qcow2", false};
  auto result = [&](const std::string& disk) {
    const std::string xml = clone_of(domain_with(disk), request).xml;
    return xml.substr(xml.find("<disk"), xml.rfind("</disk>") - xml.find("<disk"));
  };
  EXPECT_EQ(result("<disk type='file'><driver name='qemu' type='raw' cache='none'/><source file='/a'/><target "
                   "dev='vda'/></disk>"),
            "<disk type='file'><driver name='qemu' type='qcow2' cache='none'/><source file='/new/a.qcow2'/><target "
            "dev='vda'/>");
  EXPECT_EQ(result("<disk><source file='/a'/><target dev='vda'/></disk>"),
            "<disk><driver name='qemu' type='qcow2'/><source file='/new/a.qcow2'/><target dev='vda'/>");
  EXPECT_EQ(result("<disk type='block' device='lun'><driver type='raw'/><source dev='/dev/a' "
                   "startupPolicy='optional'/><target dev='vda'/></disk>"),
            "<disk type='file' device='disk'><driver type='qcow2'/><source startupPolicy='optional' "
            "file='/new/a.qcow2'/><target dev='vda'/>");
  EXPECT_EQ(result("<disk type='network'><driver type='raw'/><auth username='u'/><source protocol='rbd' "
                   "name='p/i'><host name='h'/></source><target dev='vda'/></disk>"),
            "<disk type='file'><driver type='qcow2'/><source file='/new/a.qcow2'/><target dev='vda'/>");
  EXPECT_EQ(
      result("<disk type='file'><driver type='qcow2'/><source file='/a'/><backingStore/><target dev='vda'/></disk>"),
      "<disk type='file'><driver type='qcow2'/><source file='/new/a.qcow2'/><target dev='vda'/>");
  request.disks["vda"] = {"/dev/vg/b", "raw", true};
  EXPECT_EQ(result("<disk><driver type='qcow2'/><source file='/a'/><target dev='vda'/></disk>"),
            "<disk type='block'><driver type='raw'/><source dev='/dev/vg/b'/><target dev='vda'/>");
}

TEST(Description, SerialsOfDisksAreNew) {
  DescriptionRequest request;
  request.disks["vda"] = {"/new", "", false};
  const DescriptionResult result = clone_of(
      domain_with(
          "<disk type='file'><source file='/a'/><target dev='vda'/><serial>3E3FCE45-4F53-4FA7-BB32-11F34168B82B"
          "</serial><wwn>5000C50015EA71AC</wwn></disk><controller type='nvme'><serial>N1</serial></controller>"),
      request);
  const auto serials = changes_of(result, "disk-serial");
  ASSERT_EQ(serials.size(), 2U);
  EXPECT_EQ(serials[0].after, result.uuid); // as OpenStack does: the domain's UUID
  EXPECT_EQ(serials[1].after.size(), 16U);
  const auto wwns = changes_of(result, "disk-wwn");
  ASSERT_EQ(wwns.size(), 1U);
  EXPECT_EQ(wwns[0].after.substr(0, 7), "5000C50");
  EXPECT_EQ(wwns[0].after.size(), 16U);
}

TEST(Description, SerialsOfTheMachineCanBeKept) {
  const std::string xml = domain_with(
      "", "<sysinfo type='smbios'><system><entry name='serial'>S</entry><entry name='uuid'>3e3fce45-4f53-4fa7-bb32-"
          "11f34168b82b</entry></system><oemStrings><entry>x</entry></oemStrings></sysinfo>");
  DescriptionRequest request;
  EXPECT_FALSE(contains(clone_of(xml, request).xml, ">S<"));
  request.keep_serials = true;
  const DescriptionResult result = clone_of(xml, request);
  EXPECT_TRUE(contains(result.xml, ">S<"));
  EXPECT_TRUE(contains(result.xml, "<entry name='uuid'>" + result.uuid + "</entry>"));
  EXPECT_FALSE(has_warning(result, "oem-strings", ""));
}

TEST(Description, NewerIdentitiesAreKnown) {
  const DescriptionResult result =
      clone_of(domain_with("<pstore backend='acpi-erst'><path>/var/web.pstore</path></pstore>"
                           "<tpm><backend type='emulator'><source type='dir' path='/var/tpm/web'/></backend></tpm>"
                           "<graphics type='rdp' port='3389' autoport='no'/>",
                           "<hwuuid>29b11c53-8b5c-4eeb-8f00-d84eaa0aaa4f</hwuuid><genid/>"));
  EXPECT_TRUE(contains(result.xml, "<path>/var/web-clone.pstore</path>"));
  ASSERT_TRUE(result.tpm);
  EXPECT_EQ(result.tpm->from_path, "/var/tpm/web");
  EXPECT_EQ(result.tpm->to_path, "/var/tpm/web-clone");
  EXPECT_TRUE(contains(result.xml, "path='/var/tpm/web-clone'"));
  EXPECT_TRUE(contains(result.xml, "<graphics type='rdp' port='-1' autoport='yes'/>"));
  EXPECT_FALSE(contains(result.xml, "29b11c53"));
  EXPECT_TRUE(contains(result.xml, "<genid/>")); // libvirt makes one
}

TEST(Description, VariablesOfTheFirmware) {
  DescriptionRequest request;
  request.nvram_path = "/new/VARS.fd";
  DescriptionResult result = clone_of(
      "<domain><name>web</name><os><nvram type='file'><source file='/old/V.fd'/></nvram></os></domain>", request);
  EXPECT_TRUE(contains(result.xml, "<source file='/new/VARS.fd'/>"));
  EXPECT_EQ(result.nvram->from, "/old/V.fd");
  EXPECT_EQ(result.nvram->to, "/new/VARS.fd");
  result = clone_of("<domain><name>web</name><os><varstore path='/old/web.json' template='/t'/></os></domain>");
  EXPECT_TRUE(contains(result.xml, "<varstore path='/old/web-clone.json' template='/t'/>"));
  result = clone_of("<domain><name>web</name>\n<os firmware='efi'/></domain>");
  EXPECT_TRUE(has_warning(result, "nvram", "<os firmware='efi'/>"));
  EXPECT_FALSE(result.nvram);
  request.nvram_path = "/old/V.fd";
  EXPECT_EQ(refusal("<domain><os><nvram>/old/V.fd</nvram></os></domain>", request), "PATH_IN_USE");
  EXPECT_EQ(refusal("<domain><os><nvram type='network'><source protocol='nbd'/></nvram></os></domain>"),
            "DESCRIPTION_UNSUPPORTED");
}

TEST(Description, SocketsAndPorts) {
  const DescriptionResult result =
      clone_of(domain_with("<serial type='unix'><source mode='connect' path='/run/webmail.sock'/></serial>\n"
                           "<serial type='tcp'><source mode='bind' service='65535'/></serial>\n"
                           "<serial type='tcp'><source mode='bind' service='telnet'/></serial>\n"
                           "<serial type='dev'><source path='/dev/ttyS0'/></serial>\n"
                           "<channel type='unix'><target type='virtio' name='x'/></channel>\n"
                           "<graphics type='vnc' port='-1' autoport='yes'><listen type='socket' "
                           "socket='/var/lib/libvirt/qemu/domain-1-web/vnc.sock'/></graphics>\n"
                           "<vsock><cid auto='yes' address='9'/></vsock>"));
  EXPECT_TRUE(contains(result.xml, "path='/run/web-clone-webmail.sock'")); // "web" is no word in it
  EXPECT_TRUE(has_warning(result, "channel", "mode='connect'"));
  EXPECT_TRUE(contains(result.xml, "service='1024'"));
  EXPECT_TRUE(has_warning(result, "channel", "service='telnet'"));
  EXPECT_TRUE(has_warning(result, "channel", "/dev/ttyS0"));
  EXPECT_TRUE(contains(result.xml, "<graphics type='vnc' port='-1' autoport='yes'><listen type='socket'/></graphics>"));
  EXPECT_TRUE(contains(result.xml, "<cid auto='yes'/>"));
  DescriptionRequest request;
  request.files_directory = "/" + std::string(100, 'd');
  EXPECT_EQ(refusal(domain_with("<serial type='unix'><source mode='bind' path='/run/web.sock'/></serial>"), request),
            "PATH_TOO_LONG");
}

TEST(Description, OnOneLongLineWarningsQuoteThePlace) {
  std::string xml = domain_with("<graphics type='vnc' passwd='geheim'/><lease/>" + std::string(300, ' '));
  std::replace(xml.begin(), xml.end(), '\n', ' ');
  const DescriptionResult result = clone_of(xml);
  ASSERT_EQ(result.warnings.size(), 2U);
  EXPECT_EQ(result.warnings[0].quote.substr(0, 41), "<graphics type='vnc' passwd='***'/><lease");
  EXPECT_EQ(result.warnings[1].quote, "<lease/>");
}

TEST(Description, PortsOfOtherMachinesArePassedOver) {
  TakenIdentities taken;
  taken.add_domain(
      domain_with("<serial type='tcp'><source mode='bind' service='4556'/></serial>"
                  "<vsock><cid address='4'/></vsock><serial type='unix'><source path='/run/c.sock'/></serial>",
                  "<title>x</title>"),
      "other.xml");
  DescriptionRequest request;
  request.name = "c";
  const std::string xml =
      clone_description(domain_with("<serial type='tcp'><source mode='bind' service='4555'/></serial><vsock><cid "
                                    "address='3'/></vsock><serial type='unix'><source path='/run/web.sock'/></serial>"),
                        "web.xml", request, taken)
          .xml;
  EXPECT_TRUE(contains(xml, "service='4557'"));
  EXPECT_TRUE(contains(xml, "address='5'"));
  EXPECT_TRUE(contains(xml, "path='/run/c.sock-2'"));
}

} // namespace
} // namespace kvmport
