// SPDX-License-Identifier: Apache-2.0
// Edits of XML in place: every byte that no edit names stays, whatever quotes, spaces, entities and sections there are.
#include "libconvert/clone/xml_edit.h"
#include "libconvert/machine/xml_util.h"
#include "tests/clone/description_support.h"

namespace kvmport {
namespace {

using namespace test;

std::string code(const std::string& text) {
  return code_of([&] { XmlEditor(text, "x.xml"); });
}

TEST(XmlEdit, ReadsNamesValuesAndPlaces) {
  const XmlEditor editor("<?xml version='1.0'?>\n<a x = \"1 &amp; &#x41;\"\n   y='>'>\n<b/>t&lt;<p:b xmlns:p='urn:p'"
                         " p:z='2'/><![CDATA[<u>]]></a>",
                         "x.xml");
  const XmlNode& root = editor.root();
  EXPECT_EQ(root.attribute("x"), "1 & A");
  EXPECT_EQ(root.attribute("y"), ">");
  EXPECT_EQ(root.attribute("none"), "");
  EXPECT_EQ(root.text, "\nt<<u>");
  EXPECT_EQ(root.line, 2U);
  EXPECT_EQ(editor.line_of(root.find("y")->quoted.begin), 3U);
  EXPECT_EQ(editor.quote(root.find("y")->quoted.begin), "y='>'>");
  ASSERT_EQ(root.children.size(), 2U);
  EXPECT_EQ(root.children[0]->path(), "b");
  EXPECT_EQ(root.children[1]->local_name(), "b");
  EXPECT_EQ(root.children[1]->name_space(), "urn:p");
  EXPECT_EQ(root.children[1]->attribute("p:z"), "2");
  EXPECT_EQ(root.child("c"), nullptr);
  EXPECT_EQ(editor.result(), editor.text());
}

TEST(XmlEdit, NumbersSiblingsOfOneName) {
  const XmlEditor editor("<d><i/><o/><i><m/></i></d>", "x.xml");
  EXPECT_EQ(editor.root().children[0]->path(), "i[1]");
  EXPECT_EQ(editor.root().children[1]->path(), "o");
  EXPECT_EQ(editor.root().children[2]->children[0]->path(), "i[2]/m");
}

TEST(XmlEdit, CountsBytesAfterAByteOrderMarkAndWideCharacters) {
  XmlEditor editor("\xEF\xBB\xBF<a>\xC3\xA4<b c='\xE2\x82\xAC'/>\xF0\x9F\x98\x80</a>", "x.xml");
  editor.set_attribute(*editor.root().child("b"), "c", "d");
  EXPECT_EQ(editor.result(), "\xEF\xBB\xBF<a>\xC3\xA4<b c='d'/>\xF0\x9F\x98\x80</a>");
}

struct EditCase {
  const char *name, *before, *after;
  std::function<void(XmlEditor&)> edit;
};

const EditCase edit_cases[] = {
    {"AttributeKeepsItsQuotes", "<a x=\"1\"  y = '2' />", "<a x=\"&apos;&quot;&lt;\"  y = '3' />",
     [](XmlEditor& e) {
       e.set_attribute(e.root(), "x", "'\"<");
       e.set_attribute(e.root(), "y", "3");
     }},
    {"AttributeIsAdded", "<a x='1'\n/>", "<a x='1' y='2' z='3'\n/>",
     [](XmlEditor& e) {
       e.set_attribute(e.root(), "y", "2");
       e.set_attribute(e.root(), "z", "3");
     }},
    {"FirstAttributeIsAdded", "<abc/>", "<abc y='&#10;&#9;'/>",
     [](XmlEditor& e) { e.set_attribute(e.root(), "y", "\n\t"); }},
    {"AttributeIsRemoved", "<a x='1'\n  y='2'>t</a>", "<a x='1'>t</a>",
     [](XmlEditor& e) { e.remove_attribute(e.root(), "y"); }},
    {"AttributeThatIsNotThere", "<a/>", "<a/>", [](XmlEditor& e) { e.remove_attribute(e.root(), "y"); }},
    {"Text", "<a> old&amp; </a>", "<a>&lt;&amp;&gt;'</a>", [](XmlEditor& e) { e.set_text(e.root(), "<&>'"); }},
    {"TextOfAnEmptyElement", "<a x='1' />", "<a x='1' >t</a>", [](XmlEditor& e) { e.set_text(e.root(), "t"); }},
    {"TextBetweenTags", "<a></a >", "<a>t</a >", [](XmlEditor& e) { e.set_text(e.root(), "t"); }},
    {"TextBesideAComment", "<a>o<!-- c -->ld</a>", "<a>new<!-- c --></a>",
     [](XmlEditor& e) { e.set_text(e.root(), "new"); }},
    {"TextInCdata", "<a>x<![CDATA[<y>]]>z<b/></a>", "<a>new<b/></a>",
     [](XmlEditor& e) { e.set_text(e.root(), "new"); }},
    {"LineGoesWithItsElement", "<a>\n  <b>\n  </b>\n  <c/>\n</a>", "<a>\n  <c/>\n</a>",
     [](XmlEditor& e) { e.remove_element(*e.root().child("b")); }},
    {"LineEndsOfWindows", "<a>\r\n  <b/>\r\n</a>", "<a>\r\n</a>",
     [](XmlEditor& e) { e.remove_element(*e.root().child("b")); }},
    {"LineOfTwoElementsStays", "<a>\n  <b/><c/>\n</a>", "<a>\n  <c/>\n</a>",
     [](XmlEditor& e) { e.remove_element(*e.root().child("b")); }},
    {"EditsInsideARemovedElementGoWithIt", "<a><b x='1'><c/></b></a>", "<a></a>",
     [](XmlEditor& e) {
       const XmlNode& b = *e.root().child("b");
       e.set_attribute(b, "x", "2");
       e.insert_child(*b.child("c"), "<d/>");
       e.remove_element(b);
     }},
    {"Replaced", "<a>\n <b x='1'/>\n</a>", "<a>\n <c/>\n</a>",
     [](XmlEditor& e) { e.replace_element(*e.root().child("b"), "<c/>"); }},
    {"InsertedAsTheOthers", "<a>\n\t<b/>\n</a>", "<a>\n\t<c/>\n\t<b/>\n</a>",
     [](XmlEditor& e) { e.insert_child(e.root(), "<c/>"); }},
    {"InsertedBeforeARemovedLine", "<a>\n\t<b/>\n</a>", "<a>\n\t<c/>\n</a>",
     [](XmlEditor& e) {
       e.remove_element(*e.root().child("b"));
       e.insert_child(e.root(), "<c/>");
     }},
    {"InsertedIntoNothing", "<a/>", "<a><c/></a>", [](XmlEditor& e) { e.insert_child(e.root(), "<c/>"); }},
    {"InsertedTwiceIntoNothing", "<a/>", "<a><c/><d/></a>",
     [](XmlEditor& e) {
       e.insert_child(e.root(), "<c/>");
       e.insert_child(e.root(), "<d/>");
     }},
    {"InsertedIntoAnEmptyElement", "<a></a>", "<a><c/></a>", [](XmlEditor& e) { e.insert_child(e.root(), "<c/>"); }},
};

class XmlEdits : public ::testing::TestWithParam<EditCase> {};

TEST_P(XmlEdits, ChangeNothingElse) {
  XmlEditor editor(GetParam().before, "x.xml");
  GetParam().edit(editor);
  EXPECT_EQ(editor.result(), GetParam().after);
  EXPECT_EQ(code(editor.result()), "");
}

INSTANTIATE_TEST_SUITE_P(All, XmlEdits, ::testing::ValuesIn(edit_cases),
                         [](const auto& info) { return info.param.name; });

TEST(XmlEdit, TellsWhatItKept) {
  XmlEditor editor("<a><b x='1'/>t</a>", "x.xml");
  editor.set_attribute(*editor.root().child("b"), "x", "2");
  const auto kept = editor.kept();
  ASSERT_EQ(kept.size(), 2U);
  EXPECT_EQ(kept[0].end, 9U);
  EXPECT_EQ(kept[1].begin, 10U);
  EXPECT_EQ(kept[1].end, editor.text().size());
}

TEST(XmlEdit, TwoEditsOfOnePlaceAreAMistake) {
  XmlEditor editor("<a x='1'/>", "x.xml");
  editor.set_attribute(editor.root(), "x", "2");
  editor.set_attribute(editor.root(), "x", "3");
  EXPECT_THROW(editor.result(), std::logic_error);
}

TEST(XmlEdit, TakesNoControlCharactersIntoMarkup) {
  EXPECT_EQ(xml_escaped_text("a\x01\xFF"), "a??");
  EXPECT_EQ(xml_escaped_attribute("]]>\n"), "]]&gt;&#10;");
}

TEST(XmlEdit, RefusesHostileText) {
  const std::string invalid = "DESCRIPTION_INVALID";
  EXPECT_EQ(code("<!DOCTYPE a [<!ENTITY e 'x'>]><a>&e;</a>"), invalid);
  EXPECT_EQ(code("<!DOCTYPE a SYSTEM 'file:///etc/passwd'><a/>"), invalid);
  EXPECT_EQ(code("<a>&undefined;</a>"), invalid);
  EXPECT_EQ(code(""), invalid);
  EXPECT_EQ(code("<a>"), invalid);
  EXPECT_EQ(code("<a/><b/>"), invalid);
  EXPECT_EQ(code("<a x='1' x='2'/>"), invalid);
  EXPECT_EQ(code("<a>\xE4</a>"), invalid);
  EXPECT_EQ(code(std::string("<a>\0</a>", 8)), invalid);
  EXPECT_EQ(code("<?xml version='1.0' encoding='ISO-8859-1'?><a/>"), invalid);
  EXPECT_EQ(code("<?xml version='1.0' encoding='utf-8'?><a/>"), "");
  EXPECT_EQ(code(std::string("\xFF\xFE<\0a\0/\0>\0", 10)), invalid);
  EXPECT_EQ(code(std::string("<\0a\0/\0>\0", 8)), invalid);
  EXPECT_EQ(code("<a>" + std::string(max_description, ' ') + "</a>"), invalid);
}

TEST(XmlEdit, HasTheLimitsOfTheReader) {
  std::string deep, end;
  for (int i = 0; i < max_description_depth; i++)
    deep += "<a>", end += "</a>";
  EXPECT_EQ(code(deep + end), "");
  EXPECT_EQ(code(deep + "<a/>" + end), "DESCRIPTION_INVALID");
  std::string many;
  for (std::ptrdiff_t i = 1; i < max_description_elements; i++)
    many += "<b/>";
  EXPECT_EQ(code("<a>" + many + "</a>"), "");
  EXPECT_EQ(code("<a>" + many + "<b/></a>"), "DESCRIPTION_INVALID");
}

} // namespace
} // namespace kvmport
