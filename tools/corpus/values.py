"""Invented values: the names, numbers and things that companies and people of the corpus have."""

import random


def words(text: str, divider: str | None = None) -> list[str]:
    """The words of a text, or its parts between dividers: a list that reads as prose."""
    return text.split(divider)


WOMEN = words(
    "Anna Clara Ella Grace Ida Kate Mary Olive Rose Tina Wanda Betty Dora Fiona Hanna Julia Lily Nina Ruth Una "
    "Elif Gita Ines Lena Mira Nadia Priya Rosa Yuki Zara"
)
MEN = words(
    "Ben David Frank Henry Jack Leo Noah Paul Sam Victor Adam Carl Emil George Ivan Karl Max Oscar Peter Simon Tom "
    "Walter Amir Chen Diego Farid Hugo Jamal Kofi Omar Sven Tariq"
)
FIRST = WOMEN + MEN
TRAITS = words(
    "old young small tall happy lucky quiet busy clever gentle brave merry proud honest humble noble kind shy funny "
    "curious lazy hungry friendly careful lonely tired wise strong cheerful polite"
)
HEADS = words(
    "Al Bar Bel Bran Cal Car Dal Dor El Fal Fen Gar Gil Hal Har Hol Jor Kel Kir Lan Lor Mal Mar Mel Nor Ol Pel Per "
    "Ral Ros Sal Sel Tam Tar Tor Ul Val Ver Wil Win Yor Zan Ash Birch Black Bright Clay Cold Deep Elm Fair Green Grey "
    "High Iron King Long Moor North Oak Old Red River Sand Silver Stone Sun White Wind Wood Apple Bell Cloud Fox Hazel"
)
TAILS = words(
    "by den dale er field ford gate ham hill ing land ley low man mere mond mont more ner ness port ridge rick rose "
    "sen shaw side son stead ster stone ston tin ton tree vale vik wall ward water way well wick win wood worth"
)
CONSONANTS = words("b c d f g h j k l m n p r s t v w z br cr dr fl gr pl sh sl st th tr")
VOWELS = words("a e i o u ai ea ee oo ou ie")
ENDS = words("n r l s t m nd rt x k ll ss sh ck p th")
WAYS = words("Street Road Lane Avenue Square Hill Court Way Row Walk Gate Place Park Bridge Yard")
THINGS = words(
    "bread cheese tea coffee soap candles shoes boots hats gloves coats chairs tables beds clocks watches bells books "
    "pens paper maps lamps pots pans knives cups plates baskets bags boxes ropes tents boats bikes toys dolls kites "
    "balls drums flutes violins pianos honey jam salt sugar flour rice noodles apples pears plums berries nuts flowers "
    "roses seeds trees plants brushes paint glass mirrors windows doors keys locks ladders hammers nails tools engines "
    "wheels wagons radios cameras phones lenses buttons ribbons carpets curtains blankets pillows scarves rings chains"
)
ADJECTIVES = words(
    "old new big small tiny blue red green golden silver happy lucky quiet busy bright warm cold soft round flying "
    "singing dancing sleeping honest clever gentle brave merry proud silent white black purple little humble noble"
)
ANIMALS = words(
    "cat dog fox bear wolf hare owl crow duck goose swan hen mouse rat horse pony cow goat sheep pig frog toad snail "
    "fish whale seal otter beaver badger squirrel lion tiger monkey parrot donkey camel turtle bee ant spider"
)
COLORS = words(
    "red blue green yellow orange purple brown black white grey pink silver gold turquoise violet crimson beige cream"
)
SHADES = ("light", "dark", "bright", "pale", "deep", "soft", "warm", "cool")
MATERIALS = words(
    "oak pine cherry copper tin iron steel brass silver clay glass wool cotton linen silk leather felt paper stone "
    "marble rubber straw bamboo wax cork"
)
COUNTRIES = words(
    "Norway Sweden Denmark Finland Iceland Ireland France Spain Italy Greece Turkey Egypt Kenya Ghana India Nepal "
    "China Japan Korea Canada Mexico Peru Chile Brazil Poland Austria Hungary Portugal Morocco Vietnam"
)
DISHES = words("soup stew pie salad cake pudding pancakes noodles dumplings curry bread rice omelet sandwich")
FOODS = words("apple carrot potato onion cheese bean pea tomato mushroom fish chicken lemon pear plum rice corn nut")
JOBS = words(
    "baker teacher doctor nurse farmer gardener sailor pilot cook waiter painter writer singer dancer tailor barber "
    "carpenter builder plumber driver mechanic librarian judge clerk hunter fisher miner potter shepherd"
)
HOBBIES = words(
    "swimming reading singing dancing fishing painting cooking baking hiking running sailing knitting gardening "
    "skating climbing drawing camping"
)
INSTRUMENTS = words("piano flute violin drum guitar trumpet harp cello organ horn banjo accordion")
MONTHS = words("January February March April May June July August September October November December")
BUSINESS = words(
    "Bakery Books Shoes Tools Toys Tea Coffee Clocks Furniture Gardens Foods Boats Bikes Textiles Paper Glass Music "
    "Works Trading Company Brothers Sisters Stores Supplies Motors Media Farms Mills Studio Workshop Market"
)
EVENTS = words("Day Week Night Fair Feast Festival Parade Run Party Ball Market Picnic")
CUPS = words("Cup Medal Star Prize Ribbon Crown Trophy Ring Key Leaf Spoon Shield")
POSTS = ("behind", "beside", "opposite", "below", "next to", "in front of", "near")
PAPERS = words("News Letters Post Times Notes Stories Pages Pocket Box Go")
PRODUCTS = words("lamp chair clock cake bike kettle bag boot pen knife radio kite tent bell drum box")
ROOMS = words("Room Corner Cup Spoon Garden Table Nest Den Hall Bean Attic")
ENDINGS = ("com", "org", "net", "example")
SITES = words("school church station bridge theater library mill museum market harbor park bank hospital pool tower")


def pick(rng: random.Random, items):
    """One of the items."""
    return items[int(rng.random() * len(items))]


def one_of(rng: random.Random, own: str, first: list[str], second: list[str]) -> str:
    """A given name, or a capitalized word of one of two lists."""
    return pick(rng, (own, pick(rng, first).capitalize(), pick(rng, second).capitalize()))


def word(rng: random.Random) -> str:
    """A made-up word such as "Brelan", capitalized; teaches the model to copy what it has never seen."""
    parts = [pick(rng, CONSONANTS) + pick(rng, VOWELS) for _ in range(pick(rng, (1, 2, 2, 3)))]
    return ("".join(parts) + (pick(rng, ENDS) if rng.random() < 0.7 else "")).capitalize()


def name(rng: random.Random) -> str:
    """A surname or the first word of a company: "Halford", "Greenwick", or a made-up word."""
    if rng.random() < 0.4:
        return word(rng)
    return pick(rng, HEADS) + pick(rng, TAILS)


def person(rng: random.Random) -> str:
    first = pick(rng, FIRST) if rng.random() < 0.85 else word(rng)
    return f"{first} {name(rng)}"


def company(rng: random.Random) -> str:
    """A company's name, in one of seven shapes."""
    shape = rng.random()
    if shape < 0.3:
        return name(rng)
    if shape < 0.6:
        return f"{name(rng)} {pick(rng, BUSINESS)}"
    if shape < 0.7:
        return f"{name(rng)} & {name(rng)}"
    if shape < 0.8:
        return f"{pick(rng, FIRST)}'s {pick(rng, BUSINESS)}"
    if shape < 0.9:
        return f"The {pick(rng, ADJECTIVES).capitalize()} {pick(rng, ANIMALS).capitalize()}"
    return f"{name(rng)} {pick(rng, THINGS).capitalize()}"


def digits(rng: random.Random, count: int) -> str:
    return "".join(pick(rng, "0123456789") for _ in range(count))


def price(rng: random.Random) -> str:
    whole = int(10 ** (rng.random() * 2.2)) + rng.randrange(9)
    return f"${whole}.{pick(rng, ('00', '50', '95', '25', '75', '20', '40', '99', digits(rng, 2)))}"


def clock(rng: random.Random, hours: tuple[int, ...], half: str) -> str:
    minutes = pick(rng, ("00", "15", "30", "45", "10", "20", "40", "50", "05", "25", "35"))
    return f"{pick(rng, hours)}:{minutes} {half}"


def title(rng: random.Random) -> str:
    """A title such as "The Golden Owl" or "Stone Letters"."""
    if rng.random() < 0.5:
        return f"The {pick(rng, ADJECTIVES).capitalize()} {pick(rng, ANIMALS + THINGS).capitalize()}"
    return f"{name(rng)} {pick(rng, PAPERS)}"


def slogan(rng: random.Random) -> str:
    first, second = pick(rng, ADJECTIVES).capitalize(), pick(rng, ADJECTIVES)
    return pick(
        rng,
        (
            f"{first} {pick(rng, THINGS)} for {second} people",
            f"{first} {pick(rng, THINGS)}, {second} hearts",
            f"We make {pick(rng, THINGS)} {second}",
            f"More {pick(rng, THINGS)}, more {pick(rng, THINGS)}",
            f"Always {first.lower()}, never {second}",
            f"Your {pick(rng, THINGS)} are our {pick(rng, THINGS)}",
        ),
    )


def article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def dates(rng: random.Random) -> str:
    start = rng.randrange(1, 14)
    return f"{start} to {start + rng.randrange(5, 17)} {pick(rng, MONTHS)}"


def address(rng: random.Random) -> str:
    number = rng.randrange(1, 180)
    return f"{number} {one_of(rng, name(rng), ADJECTIVES, ANIMALS)} {pick(rng, WAYS)}"


def address_book(rng: random.Random) -> str:
    box = pick(rng, ("hello", "info", "mail", "post", "shop", "ask", "team", "office"))
    return f"{box}@{name(rng).lower()}.{pick(rng, ENDINGS)}"


def website(rng: random.Random) -> str:
    return f"www.{name(rng).lower()}.{pick(rng, ENDINGS)}"


def pet(rng: random.Random) -> str:
    text = f"a {pick(rng, [*ADJECTIVES[:8], *ADJECTIVES[21:]])} {pick(rng, ANIMALS)} called {name(rng)}"
    return text.replace("a old", "an old").replace("a honest", "an honest")


def product(rng: random.Random) -> str:
    return f"the {name(rng)} {pick(rng, PRODUCTS)}"


def voucher(rng: random.Random) -> str:
    stem = pick(rng, (word(rng), pick(rng, ANIMALS), pick(rng, THINGS)))
    return f"{stem.upper()}{digits(rng, 2)}"


def award(rng: random.Random) -> str:
    return f"the {one_of(rng, name(rng), ADJECTIVES, MATERIALS)} {pick(rng, CUPS)}"


def charity(rng: random.Random) -> str:
    cause = pick(rng, ("Help", "Hope", "Friends", "Homes", "Care", "Light"))
    who = pick(rng, (name(rng), pick(rng, ANIMALS).capitalize() + "s", "Children", "Rivers", "Forests", "Schools"))
    return f"{cause} for {who}"


def place(rng: random.Random) -> str:
    return f"the {one_of(rng, name(rng), ADJECTIVES, COLORS)} {pick(rng, ROOMS)}"


def vehicle(rng: random.Random) -> str:
    return pick(
        rng,
        (
            name(rng),
            f"{pick(rng, ADJECTIVES).capitalize()} {pick(rng, FIRST)}",
            f"the {pick(rng, ADJECTIVES).capitalize()} {pick(rng, ANIMALS).capitalize()}",
        ),
    )


def password(rng: random.Random) -> str:
    return f"{pick(rng, ADJECTIVES)}{pick(rng, ANIMALS + THINGS)}{digits(rng, 1 + (rng.random() < 0.5))}"


def spot(rng: random.Random) -> str:
    return f"{pick(rng, POSTS)} the {pick(rng, (pick(rng, ADJECTIVES), name(rng)))} {pick(rng, SITES)}"


def bus(rng: random.Random) -> str:
    return f"{pick(rng, ('line', 'bus', 'number'))} {rng.randrange(1, 99)}{pick(rng, ('', 'A', 'B', 'C', 'X'))}"


def hobby(rng: random.Random) -> str:
    return pick(rng, HOBBIES) + pick(rng, ("", "", " with friends", " in the park", " alone", " by the sea"))


def count(rng: random.Random) -> str:
    number = rng.randrange(20, 999) if rng.random() < 0.4 else rng.randrange(1000, 99000)
    return f"{number:,}"


GENERATORS = {
    "address": address,
    "award": award,
    "bus": bus,
    "charity": charity,
    "code": voucher,
    "company": company,
    "count": count,
    "dates": dates,
    "email": address_book,
    "hobby": hobby,
    "password": password,
    "person": person,
    "pet": pet,
    "place": place,
    "price": price,
    "product": product,
    "slogan": slogan,
    "spot": spot,
    "title": title,
    "vehicle": vehicle,
    "website": website,
    "age": lambda r: str(r.randrange(6, 95)),
    "card": lambda r: f"the {one_of(r, name(r), ANIMALS, COLORS)} Card",
    "color": lambda r: pick(r, COLORS) if r.random() < 0.3 else f"{pick(r, SHADES)} {pick(r, COLORS)}",
    "country": lambda r: pick(r, COUNTRIES),
    "date": lambda r: f"{r.randrange(1, 29)} {pick(r, MONTHS)}",
    "days": lambda r: f"{r.randrange(2, 120)} days",
    "dish": lambda r: f"{pick(r, FOODS)} {pick(r, DISHES)}",
    "evening": lambda r: clock(r, (2, 3, 4, 5, 6, 7, 8, 9, 10), "pm"),
    "event": lambda r: f"{one_of(r, name(r), THINGS, ANIMALS)} {pick(r, EVENTS)}",
    "extension": lambda r: digits(r, 4),
    "gift": lambda r: f"a box of {pick(r, ADJECTIVES)} {pick(r, THINGS)}",
    "goods": lambda r: f"{pick(r, ADJECTIVES)} {pick(r, THINGS)}",
    "instrument": lambda r: f"the {pick(r, INSTRUMENTS)}",
    "job": lambda r: article(pick(r, JOBS)),
    "material": lambda r: f"{pick(r, [*ADJECTIVES[5:12], *SHADES])} {pick(r, MATERIALS)}",
    "months": lambda r: f"{r.randrange(2, 96)} months",
    "morning": lambda r: clock(r, (5, 6, 7, 8, 9, 10, 11), "am"),
    "phone": lambda r: f"{digits(r, 3)}-{digits(r, 4)}",
    "town": lambda r: name(r) if r.random() < 0.8 else f"{name(r)} on Sea",
    "year": lambda r: str(r.randrange(1810, 2020)),
}


def value(rng: random.Random, kind: str) -> str:
    """A random value of a kind named in attributes.txt or people.txt."""
    return GENERATORS[kind](rng)
