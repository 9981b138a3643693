r"""The units and words that may follow a number: a list of known ones, for whatever else follows changes the answer.

A measured unit has a standard name, so that `5 cents` is not `5 dollars`; a thing that is counted has none.
"""

import re

# Per line a unit's standard name, then how it is written. A single letter counts within \text{} or a compound alone:
# bare, it would be a variable.
_MEASURED = """
inch inches in
foot feet ft
yard yards yd yds
mile miles mi
meter meters metre metres m
centimeter centimeters centimetre centimetres cm
millimeter millimeters millimetre millimetres mm
kilometer kilometers kilometre kilometres km kms
gram grams g
kilogram kilograms kg kgs
milligram milligrams mg
pound pounds lb lbs £
ounce ounces oz
ton tons tonne tonnes t
second seconds sec secs s
minute minutes min mins
hour hours hr hrs h
day days
week weeks wk wks
month months
year years yr yrs
decade decades
century centuries
liter liters litre litres l L
milliliter milliliters millilitre millilitres ml mL
gallon gallons gal gals
quart quarts qt qts
cup cups
tablespoon tablespoons tbsp
teaspoon teaspoons tsp
acre acres
dollar dollars USD usd bucks $
cent cents ¢
euro euros EUR eur €
yen JPY jpy ¥
rupee rupees INR inr Rs rs ₹
won KRW krw ₩
yuan RMB rmb CNY cny
peso pesos
percent % percentage
degree degrees deg
celsius C
fahrenheit F
kelvin kelvins
radian radians rad
calorie calories cal
kilocalorie kilocalories kcal
joule joules J
newton newtons N
watt watts W
kilowatt kilowatts kW kw
volt volts V
hertz Hz hz
byte bytes
kilobyte kilobytes KB kb
megabyte megabytes MB mb
gigabyte gigabytes GB gb
morning am
unit units
afternoon pm
"""
_COMPOUND = {"mph": {"mile", "hour"}, "kph": {"kilometer", "hour"}, "kmph": {"kilometer", "hour"}}
_LENGTHS = {"inch", "foot", "yard", "mile", "meter", "centimeter", "millimeter", "kilometer", "unit"}
_TO_A_POWER = {*_LENGTHS, "second"}
_JOINING = {"per", "a", "an", "every"}  # a unit comes after these
_CLOSING = {"each", "total", "left", "remaining", "altogether"}
# The things that school problems count, in the plural; a final s may be missing. No word is here that would be an
# operation in the singular (squares, cubes, roots, powers, halves) or a factor (dozens, zeros, times).
_COUNTED = """
animals apples arrangements arrows awards backpacks bags bales balloons balls bananas bands bars baskets batches beads
bears beds bees bills birds blocks boards boats books bottles bowls boxes boys bracelets branches bricks brothers
brownies buckets buildings burgers burritos buses bushes butterflies buttons cages cakes calls candies candles candy
cans cards cars cartons cases cats chairs chapters chickens children chips chocolates choices circles classes
classrooms clients clothes coins colors columns combinations committees cookies cousins cows crates crayons cupcakes
customers cuts cycles cyclists days deer desks diagonals digits dishes divisors dogs dolls donuts doors doughnuts
drawers dresses drinks ducks edges eggs elements elephants employees episodes erasers events exercises eyes faces
factors families fans farmers fathers fish floors flowers flyers frogs fruit fruits functions games gifts girls
glasses goals goats grades grapes groups guests gumballs hats homes horses hotdogs houses insects integers
intersections items jars jellybeans jumps keys kids kittens laps leaves legos legs lemons letters lights lines lions
lockers lollipops lunches machines magazines marbles markers marshmallows matches meals members men messages mice
minivans mothers movies muffins mugs nails necklaces nests newspapers nickels notebooks notes numbers oranges orders
outcomes outfits oysters packages packets packs pages paintings pairs pancakes pants papers parents participants parts
passengers paths patients peaches pears pencils pennies pens people permutations persons petals pets phones photos
pictures pieces pies pigs pills pineapples pipes pizzas planes plants plates players plums points polygons positions
possibilities posts potatoes presents prizes problems pupils puppies questions rabbits rectangles residents rides
rocks rooms roses rows runners runs sandwiches seashells seats sections seeds servings sets sheep sheets shells
shelves shirts shoes shots sides sisters slices smoothies snacks socks sodas soldiers solutions songs spaces spiders
spoons squirrels stamps steps stickers sticks stones stores stories strawberries students subsets sweets tables
teachers teams tennis tests tickets tiles tires tomatoes towels towns toys trains trays trees triangles trips trucks
tulips turtles values vans vegetables vehicles vertices visitors visits votes walls ways wheels windows women
words workers
"""
_COUNTS = set(_COUNTED.split())
_NAMES = {word: line.split()[0] for line in _MEASURED.strip().splitlines() for word in line.split()}

STYLE = r"\\(?:text(?:bf|it|rm|sf|normal)?|math(?:rm|bf|it|sf)|mbox)\s*+"
SPACE = r"(?:\s|~|\{\}|\\[,;:!\ ]|\\q?quad(?![A-Za-z]))"
_TOKEN = re.compile(
    rf"(?P<space>{SPACE}++)"
    rf"|{STYLE}\{{(?P<styled>[^{{}}]*+)\}}"
    r"|(?P<degree>\^\s*+(?:\\circ(?![A-Za-z])|\{\s*+\\circ\s*+\})|\\degree(?![A-Za-z]))"
    r"|(?P<power>\^\s*+(?:[23](?![0-9])|\{\s*+(?:[23]|-[12])\s*+\}))"
    r"|\\?(?P<sign>[$%€£¥₹₩¢])"
    r"|(?P<join>[/-])"
    r"|(?P<word>[ap]\.m\b\.?|[A-Za-z]++\.?)"
)


def read(text: str, currency: str = "") -> frozenset[str] | None:
    r"""The measured units in what follows a number, by their standard names; None if anything else stands there.

    Read are `cm`, `\text{ square inches}`, `km/h`, `dollars per hour`, `^\circ C`, `\%` and things that are counted.
    `currency`: the sign before the number, if there is one.
    """
    before = _NAMES.get(currency, "")
    found = _read(text, before, styled=False)
    return None if found is None else (found[0] | {before}) - {"", "unit"}  # a unit of no name contradicts none


def _read(text: str, last: str, styled: bool) -> tuple[frozenset[str], str] | None:
    """Units, and the last word's standard name or kind; `last`: that of what stands before."""
    units, position = frozenset[str](), 0
    while position < len(text):
        if not (token := _TOKEN.match(text, position)):
            return None
        position = token.end()
        kind, value = str(token.lastgroup), token[str(token.lastgroup)]
        if kind == "space":
            continue
        if kind == "styled":
            if (inner := _read(value, last, styled=True)) is None:
                return None
            units, last = units | inner[0], inner[1]
            continue
        if kind == "power":
            if last not in _TO_A_POWER:
                return None
            continue
        named = _named(kind, value, last, styled)
        if named is None or (last in ("square", "join") and not named[0]):
            return None
        if last == "square" and not named[0] <= _LENGTHS:
            return None
        units, last = units | named[0], named[1]
    return None if last in ("square", "join", "joining") and not styled else (units, last)


def _named(kind: str, value: str, last: str, styled: bool) -> tuple[frozenset[str], str] | None:
    """What a token adds, and its name or kind."""
    if kind == "degree":
        return frozenset(["degree"]), "degree"
    if kind == "join":
        return (frozenset(), "join") if last else None
    word = value if kind == "sign" else value.replace(".", "")
    low = word.lower()
    if len(word) == 1 and word.isalpha() and low != "a" and not (styled or last in ("degree", "join")):
        return None
    if (name := _NAMES.get(word) or (_NAMES.get(low) if len(word) > 1 else None)) is not None:
        return frozenset([name]), name
    if low in _COMPOUND:
        return frozenset(_COMPOUND[low]), low
    if low in ("square", "sq", "cubic", "cu"):
        return frozenset(), "square"
    if low in _JOINING:  # `a` alone would be a variable
        return (frozenset(), "joining") if last or low == "per" else None
    if low in _CLOSING:
        return frozenset(), "counted"
    if low in _COUNTS or (low + "s" in _COUNTS and len(low) > 2):
        return frozenset(), "counted"
    return None
