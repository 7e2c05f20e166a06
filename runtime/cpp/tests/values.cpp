// Numbers, texts and JSON as Python has them. Thousands more are asked by tests/cpp/test_bundle.py.
#include <clocale>
#include <cmath>
#include <limits>

#include "bundle/onnx_data.hpp"
#include "bundle/shown.hpp"
#include "bundle/typed.hpp"
#include "bundle/value.hpp"
#include "check.hpp"
#include "made.hpp"
#include "tensor.hpp"

namespace {

using namespace edgeprune;

void numbers_are_the_shortest() {
    const std::pair<double, const char *> cases[] = {
        {0.0, "0.0"},          {-0.0, "-0.0"},         {1.0, "1.0"},       {1e15, "1000000000000000.0"},
        {1e16, "1e+16"},       {1e-4, "0.0001"},       {1e-5, "1e-05"},    {0x1p-44, "5.684341886080802e-14"},
        {5e-324, "5e-324"},    {0.1 + 0.2, "0.30000000000000004"},         {-1.5e300, "-1.5e+300"},
        {9999999999999998.0, "9999999999999998.0"},    {123456.789, "123456.789"},
        {std::numeric_limits<double>::max(), "1.7976931348623157e+308"},
    };
    for (const auto &[number, text] : cases) check::same(repr(number), text);
}

// A program may have set a language whose numbers have a comma; then the same must come out.
void numbers_do_not_follow_the_locale() {
    for (const char *name : {"de_DE.UTF-8", "de_DE.utf8", "fr_FR.UTF-8"})
        if (std::setlocale(LC_ALL, name)) break;
    numbers_are_the_shortest();
    check::same(canonical(*parse("[0.5, 2.5e-7]")), "[0.5,2.5e-07]");
    std::setlocale(LC_ALL, "C");
}

void halves_are_exact() {
    for (std::uint32_t half = 0; half < 0x10000; ++half) {
        const float value = float_of(static_cast<std::uint16_t>(half));
        if (std::isnan(value)) check::holds((half & 0x7fffU) > 0x7c00U);
        else check::same(half_of(value), half);
    }
    check::same(half_of(65519.996F), 0x7bff);
    check::same(half_of(65520.0F), 0x7c00);
    check::same(half_of(0x1p-25F), 0);
    check::same(half_of(0x1.000002p-25F), 1);
    check::same(half_of(2049.0F), half_of(2048.0F));
    check::same(half_of(2051.0F), half_of(2052.0F));
    check::holds(std::isnan(float_of(half_of(std::nanf("")))));
}

void json_is_refused_as_python_refuses_it() {
    const std::string nul("1\0", 2), deep = std::string(DEEPEST, '[') + std::string(DEEPEST, ']');
    check::holds(!parse(nul));
    check::holds(!parse("[" + deep + "]"));
    for (const char *text : {"NaN", "-Infinity", "1e999", "9223372036854775808", "{\"a\":1,\"\\u0061\":2}",
                             "\"\\ud800\"", "\"\xff\"", "\xef\xbb\xbf{}", "01", "1 2", "", "\"\n\""})
        check::holds(!parse(text));
    check::holds(parse(deep).has_value());
    check::same(canonical(*parse("{\"b\":[1,-0,1.0,1e-400,null,true],\"a\":\"\\u00e9\\ud83d\\ude00\x7f/\"}")),
                "{\"a\":\"\\u00e9\\ud83d\\ude00\\u007f/\",\"b\":[1,0,1.0,0.0,null,true]}");
}

void texts_are_shown_as_python_shows_them() {
    check::same(repr(std::string("a'b")), "\"a'b\"");
    check::same(repr(std::string("a'\"\\\n\x1b\u00a0\u202e\U000e0001é😀")),
                "'a\\'\"\\\\\\n\\x1b\\xa0\\u202e\\U000e0001é😀'");
    check::same(repr(std::string("é😀"), true), "'\\xe9\\U0001f600'");
    check::same(first("é😀x", 2), "é😀");
    check::same(shown("a\xff\x1b"), "a\\xff\\x1b");
    for (const char *bad : {"\xc0\x80", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xe2\x82", "\x80"})
        check::holds(!is_utf8(bad));
    check::same(repr(*parse("{\"a\": [1, 2.5, null, true, {}]}"), false, 60), "{'a': [1, 2.5, None, True, {}]}");
    check::same(repr(*parse("[1]"), true, 60), "(1,)");
}

void graphs_name_their_weights() {
    const auto locations = [](const std::string &content) {
        try {
            std::string all;
            const auto *bytes = reinterpret_cast<const unsigned char *>(content.data());
            for (const std::string &one : external_files({bytes, content.size()})) all += one + ";";
            return all;
        } catch (const Wrong &wrong) {
            return std::string("! ") + wrong.what();
        }
    };
    check::same(locations(made::graph()), "encoder.data;");
    check::same(locations("\x08\x0a"), "");
    check::same(locations(""), "! it is empty");
    check::same(locations("\x3a"), "! a number that is cut off at byte 1");
    check::same(locations("\x3a\x05\x0a"), "! a field that is cut off at byte 2");
    check::same(locations("\x0b"), "! a field of wire type 3 at byte 1");
    check::same(locations("\x08" + std::string(11, '\xff')), "! a number that does not end at byte 11");
    // 2^64 + 1 bytes, which 64 bits would take for 1
    check::same(locations("\x3a\x81\x80\x80\x80\x80\x80\x80\x80\x80\x02x"), "! a field that is cut off at byte 11");
}

}  // namespace

int main() {
    numbers_are_the_shortest();
    numbers_do_not_follow_the_locale();
    halves_are_exact();
    json_is_refused_as_python_refuses_it();
    texts_are_shown_as_python_shows_them();
    graphs_name_their_weights();
    return check::done();
}
