"""Story plans: a small text grammar that writes the skeleton of a children's story.

`[a|b|c]` picks one alternative (they nest), `{x}` is a value of the plan, and `<opening words>` marks a
place where the teacher model writes one sentence that begins with those words.  A slot whose sentence is
rejected is simply left out, so every plan is a complete story without the teacher.
"""
import random
import re

KINDS = ("rabbit bear fox mouse duck frog squirrel hedgehog kitten puppy owl turtle lamb pony penguin monkey elephant "
         "lion bunny deer beaver badger otter goat pig hen sparrow robin dragon bee goose mole cub snail").split()
GIRLS = ("Lily Mia Anna Ella Rosie Daisy Lucy Molly Nina Ruby Sara Poppy Emma Zoe Tess Bella Clara Ivy Maya Nora Hazel "
         "Pearl Dot Sophie Amy Kate Jane Luna Penny Wendy Holly Grace May Betty Sally Fern Honey Olive Willow Tilly").split()
BOYS = ("Tom Ben Max Sam Leo Tim Jack Finn Oliver Toby Bob Pip Charlie Henry Theo Milo Oscar George Hugo Teddy Barney "
        "Rusty Otto Billy Danny Felix Alfie Louis Noah Peter Rufus Basil Monty Archie Ned Gus Will Simon Freddy Sunny").split()
TRAITS = ("little small brave shy kind curious happy clever gentle young cheerful quiet friendly playful tiny busy funny "
          "sleepy lonely polite lively proud careful silly merry").split()
# (how to be there, the place)
PLACES = [("in", p) for p in ("the forest|the woods|the garden|the meadow|the park|the village|the valley|the orchard|"
          "the big green field|the old barn|the rose garden|the tall grass").split("|")] + \
         [("by", p) for p in "the river|the lake|the sea|the pond|the old mill|the stream|the old oak tree".split("|")] + \
         [("on", p) for p in "the hill|the farm|the beach|the island".split("|")] + \
         [("near", p) for p in "the mountain|the wooden bridge|the waterfall|the castle".split("|")]
HOMES = ("[in|near] a [small|quiet|pretty|sunny] village|in a [cozy|little|warm|small] [house|cottage] [at the edge of the forest|"
         "by the sea|on a hill|near the river|with a red roof]|in a [big|green|deep|quiet] forest|on a [small|sunny|busy] farm|"
         "beside a [blue|clear|quiet] lake|in a [green|wide|sunny] valley|under an old oak tree|near a [little|big] pond")
COLORS = "red blue yellow green silver golden white purple orange pink".split()
TOYS = "ball kite boat drum doll train teddy whistle balloon hat scarf ribbon bell lantern basket umbrella blanket button book".split()
FINDS = TOYS + "key ring coin shell feather stone box map bottle mirror necklace".split()
FOODS = "apples berries cookies carrots nuts cherries pears plums strawberries cakes pancakes sandwiches muffins buns".split()
SKIES = "sunny windy warm bright cool quiet fine lovely cloudy spring summer autumn".split()
FEARS = [("the dark", "It was only dark because the sun was asleep", "walked into the dark room"),
         ("thunder", "It is only the clouds clapping their hands", "listened to the thunder"),
         ("the deep water", "The water will hold you if you stay calm", "put one foot in the water, and then the other"),
         ("loud noises", "A loud noise is only a big sound", "listened to the big drum"),
         ("high places", "Look up at the sky and not down at the ground", "climbed to the top of the hill"),
         ("the old bridge", "The bridge is strong and I will hold your hand", "walked across the bridge"),
         ("the wind", "The wind only wants to play", "ran outside and let the wind blow"),
         ("shadows", "A shadow is only a place where the light is resting", "waved at the shadow on the wall"),
         ("the big slide", "It is fast, but it is fun", "sat down at the top of the slide and let go"),
         ("the school play", "We will all be there to clap for you", "stood on the stage and sang a song")]
STUCK = [("a [small|little] bird had fallen out of its nest", "bird", "put the bird in a soft hat and climbed up to the nest", "[safe|back] in its nest"),
         ("a kitten was stuck in a tall tree", "kitten", "found a long ladder and climbed up slowly", "safe on the ground"),
         ("a [little|old] turtle was lying on its back", "turtle", "pushed with a strong stick", "back on its feet"),
         ("a baby duck was caught in the reeds", "duck", "pulled the reeds apart, one by one", "free again"),
         ("a little mouse had fallen into a hole", "mouse", "let down a long rope", "out of the hole"),
         ("a butterfly was caught in a web", "butterfly", "opened the web with a thin leaf", "free again"),
         ("a small lamb was stuck in the mud", "lamb", "laid a wooden board on the mud", "out of the mud"),
         ("a fish was trapped in a tiny pool", "fish", "filled a bucket with water and carried the fish", "back in the river"),
         ("a tiny bee was floating in the pond", "bee", "held out a long green leaf", "dry and safe"),
         ("a puppy had a thorn in its paw", "puppy", "pulled out the thorn very gently", "able to run again")]
MAKES = [("bake a cake", "cake", "The cake was flat and burned"), ("build a boat", "boat", "The boat sank in the water"),
         ("build a tree house", "tree house", "The roof fell down with a bang"), ("make a kite", "kite", "The kite fell to the ground"),
         ("paint a picture", "picture", "The colors ran together"), ("knit a scarf", "scarf", "The scarf was full of holes"),
         ("cook soup", "soup", "The soup was much too salty"), ("make a birdhouse", "birdhouse", "The walls were crooked and fell over"),
         ("build a snowman", "snowman", "The head rolled off"), ("make a little cart", "cart", "The wheels came off"),
         ("write a song", "song", "The words did not fit the tune"), ("build a sand castle", "sand castle", "A wave washed it away")]
BREAKS = "blue vase|big clay pot|glass bowl|kitchen window|old lamp|favorite cup|flower pot|jar of honey|wooden chair|clock".split("|")
SEEDS = [("a sunflower", "tall yellow sunflower"), ("a pumpkin", "big orange pumpkin"), ("an apple tree", "young apple tree"),
         ("a rose", "lovely red rose"), ("a bean", "long green bean plant"), ("a carrot", "big sweet carrot"), ("a tulip", "bright pink tulip"),
         ("a melon", "round sweet melon"), ("a strawberry", "strawberry plant full of sweet red berries")]
GAMES = "hide and seek|tag|catch|jump rope|marbles|a racing game|a guessing game|pirates|leap frog".split("|")
ELDERS = [("grandmother", "she"), ("grandfather", "he"), ("mother", "she"), ("father", "he"), ("aunt", "she"), ("uncle", "he")]
SEEK = ("under the bed|behind the door|in the garden|under the [old|big] tree|behind the rocks|in the tall grass|by the pond|in the barn|"
        "inside the [box|basket|cupboard]|under the leaves|near the gate|on top of the shelf|next to the well|in the hollow log").replace("[old|big]", "old").replace(
        "[box|basket|cupboard]", "cupboard").split("|")

OPEN = ("[Once upon a time,|Once upon a time,|Once upon a time,|Once upon a time|Long ago,|Once,] there [was|was|lived] {a_hero} [named|called] {H}. "
        "[{H}|{S}] lived {home}[| with {p} [mother and father|family|grandmother|mother|brothers and sisters]]. |"
        "Once upon a time, {home}, there lived {a_hero} [named|called] {H}. |"
        "{H} was {a_hero}. [{S}|{H}] lived {home}. |"
        "There was once {a_hero} [named|called] {H}, who lived {home}. ")
ABOUT = "|<{H} liked to>|<Every morning, {H}>|<{H} had>|<{S} loved>|{H} loved to [play {inP}|sing songs|look at the clouds|pick flowers|listen to stories|run and jump]. |<Everyone knew that {H}>"
DAY = "[One [{sky} [day|morning|afternoon]|day|morning|afternoon]|One {sky} day], "
SCENE = "||<The sun was>|<The sky was>|<{P} was>|<The air smelled of>|The [sun was shining|birds were singing|flowers were open|sky was blue]. "
END = ("\n\n[From that day on|After that|And from then on], {H} and {F} [were the best of friends|were good friends|played together every day|always helped each other]. |"
       "\n\nThat [night|evening], {H} [went to bed|fell asleep|went home] with a [big smile|happy heart|warm feeling inside]. |"
       "\n\nAnd {H} [never forgot|always remembered] that day. |\n\n<From that day on, {H}>{H} and {F} were very happy. |"
       "\n\n[{H} and {F}|They] [laughed and danced|hugged each other|smiled at each other] until the [sun went down|stars came out|moon was high in the sky]. |"
       "\n\n[They all lived happily ever after|And they lived happily ever after]. ")
LESSON = {
    "share": "|{H} had learned that [sharing makes everyone happy|things are better when we share them|it is good to share]. ",
    "brave": "|{H} had learned that being brave means [trying even when you are afraid|doing it even if you are scared]. ",
    "help": "|{H} [knew|had learned] that [helping others is a wonderful thing|even a small friend can be a big help|a kind heart is the best gift]. ",
    "patient": "|{H} had learned [to be patient|that good things take time|to never give up]. ",
    "honest": "|{H} had learned that [it is best to tell the truth|telling the truth makes the heart light]. ",
    "friend": "|{H} had learned that [a new friend is a great gift|it is easy to make a friend if you are kind]. ",
    "ask": "|{H} had learned that [it is good to ask for help|friends are there to help]. ",
    "home": "|{H} [knew|had learned] that [home is the best place of all|there is no place like home]. ",
}
MEET = "{F} the {fk}"
GLAD = "[happy|very happy|so happy|glad|full of joy|proud and happy]"
SAD = "[sad|very sad|worried|upset|lonely]"

PLOTS = {
"found": ("help",
    DAY + "{H} [was walking|went for a walk|was playing] {inP}. {scene}"
    "[Suddenly, {s} saw|There {s} found|On the ground {s} saw|Then {s} found] {a_obj} [in the grass|under a bush|behind a stone|near the path]. <The {ob} was>"
    "\"[Whose {ob} is this|Who could have lost this {ob}|Where did this {ob} come from]?\" [asked|said|wondered] {H}. <{H} picked up>"
    "\n\n{H} [wanted to keep the {ob}, but {s} knew that somebody might miss it|thought that somebody must be looking for it]. "
    "So {s} [went to ask|asked] {G} the {gk}. \"[Is this your {ob}|Did you lose this {ob}]?\" {s} asked. \"No, [it is not mine|I have never seen it before],\" said {G}. \"[Ask {F}|Maybe it belongs to {F}|You should ask {F}].\" <{G} said,>"
    "\n\n{H} [walked on|thanked {G} and walked on|ran down the path] and [soon|at last] {s} met " + MEET + ". {F} was [crying|sitting on a log, looking very sad|looking everywhere]. \"[I lost my {obj}|I cannot find my {obj}],\" said {F}. <{F} felt>"
    "{H} [smiled|held out the {ob}|smiled and held out the {ob}]. \"[Here it is|I found it|Look what I found]!\" {s} said. {F} was " + GLAD + ". \"[Thank you|Thank you so much|Oh, thank you], {H}!\" {fs} said. <{F} gave {H}>{lesson}"),
"lost": ("ask",
    "{H} had {a_obj}. It was {p} favorite [thing|toy] in the whole world. <{S} took the {ob}>{about}\n\n" + DAY + "[{H} could not find the {ob}|the {ob} was gone]. \"[Oh no|Oh dear], where is my {ob}?\" {s} [cried|said|asked]. {S} felt " + SAD + ". <{H} thought>"
    "\n\n{S} looked {k1}, but it was not there. {S} looked {k2}, but it was not there. [Then|Just then], " + MEET + " [came by|came along the path|walked by]. \"[What is wrong|Why are you so sad], {H}?\" asked {F}. \"I lost my {ob},\" said {H}. \"[Do not worry|Do not cry]. I will help you [look for it|find it],\" said {F}. <{F} said,>"
    "\n\n[Together they|The two friends|They] looked {k3}. [And there it was|There was the {ob}|And there was the {ob}]! <The {ob} was>{H} [jumped with joy|clapped with joy|laughed]. \"[Thank you|You are a good friend|You are the best], {F}!\" {s} said. <{H} hugged>{lesson}"),
"share": ("share",
    DAY + "{H} had a [big|full] basket of {food}. {scene}{S} sat down {inP} [to eat them|to have a picnic]. <The {food} were>"
    "[Soon|Then], " + MEET + " came by. \"[Those {food} look good|Oh, what lovely {food}|Hello, {H}],\" said {F}. \"[May I have some|Can I have one|Will you share with me]?\"\n\n"
    "\"No,\" said {H}. \"[They are all mine|These are mine|I want to eat them all].\" {F} [walked away|went away] with [tears in {fp} eyes|{fp} head down|a sad face]. <{F} felt>"
    "{H} [ate and ate|began to eat], but [{s} was not happy|the {food} did not taste good|it was no fun to eat alone]. <{H} began to feel>\n\n"
    "So {H} [got up and ran after {F}|went to find {F}]. \"[I am sorry|I was not kind. I am sorry], {F},\" {s} said. \"[Please eat with me|Let us share the {food}|Come and have some {food}].\" {F} [smiled|was " + GLAD + "]. \"Thank you, {H}!\" {fs} said. "
    "They sat [side by side|together] {inP} and ate the {food}. <The two friends>[It was the best picnic of all|Now the {food} tasted sweet|It was much more fun than eating alone]. {lesson}"),
"fear": ("brave",
    "{about}But {H} was afraid of [one thing|something]. {S} was afraid of {fear}. <When {H}>\n\n" + DAY + "{p} friend " + MEET + " [came to visit|came to play|saw that {H} was hiding]. \"[What is wrong|Why are you hiding|Why do you look so scared], {H}?\" asked {F}. \"I am afraid of {fear},\" said {H}[| in a small voice]. <{F} smiled and>"
    "\"[I was afraid once too|Do not be afraid|You do not have to be scared],\" said {F}. \"{calm}. [I will stay with you|We can do it together|I will be right here].\" <{H} thought about>\n\n"
    "{H} took a deep breath. {S} [counted to three|closed {p} eyes|held {F}'s hand]. Then {s} {act}. [At first, {p} heart was beating fast|{S} was shaking a little], but nothing bad happened. <{H} felt>\"[I did it|Look, I can do it|I am not afraid anymore]!\" [shouted|cried|said] {H}. \"[I knew you could|You are very brave|I am proud of you],\" said {F}. <Then they>{lesson}"),
"rescue": ("help",
    DAY + "{H} was [walking|playing|on {p} way home] {inP}. {scene}[Suddenly|Then], {s} heard a [small|soft|sad] [cry|voice]. \"[Help|Please help me|Help me]!\" it said. {H} saw that {stuck}. <The poor {v}>"
    "\n\n\"[Do not be afraid|Do not worry], little {v},\" said {H}. \"I will help you.\" [{S} tried and tried|{S} tried once and {s} tried again], but [it was too hard|{s} could not do it alone]. <{H} thought>So {s} called {p} friend " + MEET + ". \"[I have an idea|I know what to do|Let us do it together],\" said {F}. <{F} ran>"
    "\n\n[Together they|{H} and {F}] {how}. [Soon|At last|After a while], the {v} was {safe}. \"[Thank you|Thank you both|You are so kind],\" said the {v}. <The {v} was>{H} felt " + GLAD + ". {lesson}"),
"make": ("patient",
    DAY + "{H} wanted to {make} [for|as a surprise for] {F} the {fk}. <{S} got>{scene}{S} worked [all morning|all day|very hard]. But [something went wrong|it did not go well]. {wrong}. \"[Oh no|Oh dear]!\" [cried|said] {H}. \"I will never [do it|get it right].\" <{H} felt>"
    "\n\n{H} went to {p} {elder}. \"[I cannot do it|It is too hard],\" {s} said. {EP} {elder} [smiled|gave {o} a hug|sat down beside {o}]. \"[Nobody gets it right the first time|You must try again, slowly this time|Every mistake teaches us something],\" {es} said. <{EP} {elder} showed>"
    "\n\nSo {H} [tried again|started again]. This time {s} was [slow and careful|very careful|patient]. [And it worked|At last, it was done|In the end, it was ready]! <The {mk} was>{H} [ran to|took it to|showed it to] {F}. \"[Is this for me?|Did you make this?|Oh, {H}!]\" said {F}. \"It is the [best|most beautiful|nicest] {mk} [I have ever seen|in the world].\" <{F} was so>{lesson}"),
"visit": ("help",
    DAY + "{H} [put on {p} hat and|packed a basket and] went to visit {p} {elder}. {S} [took|carried] [some|a basket of] {food}. <{H} walked>{scene}\n\n"
    "But on the way, [it began to rain|the wind began to blow hard|the path came to a wide river|a big tree lay across the path|{s} lost the way]. \"[What shall I do|Oh no, what now|How can I go on]?\" said {H}. <{H} sat down>"
    "[Just then|Luckily], " + MEET + " came along. \"[I can help you|Come with me|Let me help you],\" said {F}. \"[I know another way|I know this place well|We will go together].\" <{F} showed>\n\n"
    "[Soon|Before long|At last], they [came to|reached] the [little house|cottage|house] of {p} {elder}. {EP} {elder} was " + GLAD + " to see them. \"[Come in and sit by the fire|Come in, come in|You must be hungry],\" {es} said. They ate the {food} and [drank hot tea|told stories|sang songs]. <The house was>{lesson}"),
"truth": ("honest",
    DAY + "{H} was playing [inside the house|in the house|in the kitchen] with {a_obj}. {S} [jumped and ran|ran very fast|was not careful]. [Crash|Bang|Oh no]! {S} broke {p} {elder}'s {brk}. <The {brkn} was>\n\n"
    "{H} was [scared|afraid]. {S} hid the pieces [under the bed|behind a chair|in a box]. <{H} hoped>[Soon|Later], {p} {elder} came home. \"[Where is my {brkn}|Have you seen my {brkn}], {H}?\" {es} asked. {H} [said nothing|looked at the floor|shook {p} head]. {S} felt [bad|very bad|a heavy stone in {p} tummy]. <That night, {H}>\n\n"
    "{H} went to see {F} the {fk}. \"What should I do?\" {s} asked. \"[Tell the truth|You should tell the truth|Be honest],\" said {F}. \"[It will make you feel better|It is hard, but it is right].\" So {H} [went home|ran home] and told {p} {elder} everything. \"I am sorry,\" {s} said. {EP} {elder} [gave {o} a hug|smiled|was quiet for a moment]. \"[Thank you for telling me the truth|I am glad that you told me|I am not angry. I am proud of you],\" {es} said. <Together they>{lesson}"),
"newfriend": ("friend",
    DAY + "a new {fk} [moved into the house next door|came to live {inP}|came to the village]. {FP} name was {F}. {F} was [very shy|shy and quiet|all alone]. <{F} had>\n\n"
    "{H} saw {F} [sitting alone|standing alone|looking sad] {inP}. {scene}\"[Hello|Hi]! [My name is|I am] {H},\" {s} said. \"[Do you want to play|Would you like to play {game}|Will you play with me]?\" {F} [looked up|looked at {p} kind face|did not know what to say]. \"[I do not know how|I am a little shy|Nobody ever asked me before],\" {fs} [said|whispered]. <{H} smiled and>\n\n"
    "\"[I will show you|It is easy|We can learn together],\" said {H}. So they played {game} [all day|until the sun went down|all afternoon]. <They ran>{F} [laughed and laughed|was not shy anymore|began to smile]. \"[This is fun|I am so glad that you came over|You are a good friend]!\" said {F}. <{H} and {F}>{lesson}"),
"night": ("home",
    "{about}One night, {H} could not sleep. <{S} lay>{S} [got up and went to the window|looked out of the window]. The [moon was round and bright|stars were shining]. <The night was>\n\n"
    "[On a branch sat|Outside {s} saw|In the garden {s} saw] " + MEET + ". \"[Why are you awake|You should be asleep|Good evening], {H},\" said {F}. \"I cannot sleep,\" said {H}. \"[Then I will tell you a story|Let us count the stars|I will sing you a song],\" said {F}. <{F} told {H}>{F} [spoke|sang] in a soft voice, about [the moon and the sea|a boat that sailed to the stars|a sleepy little cloud|the wind in the trees|a garden {inP}]. <The stars>\n\n"
    "[Soon|After a while|Slowly], {H}'s eyes [began to close|grew heavy]. \"Good night, {F},\" {s} [whispered|said]. \"Good night, {H}. [Sweet dreams|Sleep well],\" said {F}. {H} [dreamed of|had a lovely dream about] [flying over {P}|a golden boat|dancing with the stars|the moon|{a_obj}]. <In the dream, {H}>"),
"seed": ("patient",
    DAY + "{p} {elder} gave {H} a [tiny|little|small] seed. \"[Plant it and wait|Give it water and sun|Take good care of it],\" {es} said. <{H} was so>{H} [dug a small hole|made a hole] {inP} and put the seed in it. {S} gave it water every day. {scene}\n\n"
    "The first day, nothing happened. The second day, nothing happened. \"[It will never grow|Why does it not grow|This is so slow],\" said {H}. " + MEET + " came to look. \"[You must wait|Be patient|Good things take time],\" said {F}. <{F} said,><{H} waited>\n\n"
    "Then, one morning, {H} saw a [tiny green leaf|small green sprout]. \"[Look, it is growing|Come and see, {F}]!\" {s} [cried|shouted]. [Day after day|Every day], it grew [bigger and bigger|taller and taller]. [At last|In the end], it was a {plant}. <The {plant} was>{H} was " + GLAD + ". {S} [showed it to {p} {elder}|shared it with {F}|gave some seeds to {F}]. <Everyone came to>{lesson}"),
"astray": ("home",
    DAY + "{H} saw a [blue|yellow|beautiful|tiny] [butterfly|dragonfly|bird] {inP}. \"[Wait for me|I want to play with you|How pretty you are]!\" said {H}. {S} [ran after it|followed it], over the hill and [through the trees|across the stream]. <The {P0} was>"
    "But [then it flew away|soon it was gone], and {H} did not know where {s} was. \"[I am lost!|Oh no, I am lost!|Where am I?]\" {s} [said|cried]. <It was getting>\n\n"
    "{H} sat down [on a stone|under a tree] and began to cry. " + MEET + " heard {o}. \"[Do not cry|What is the matter|Why are you crying]?\" [said|asked] {F}. \"I [cannot find|do not know] the way home,\" said {H}. <{F} thought>\"[I will take you home|I know the way|Come, take my hand],\" said {F}.\n\n"
    "[They walked and walked|Together they walked down the path|They went past the pond and over the bridge]. <On the way, they>[At last|Soon], {H} saw [the light in the window|{p} home|the roof of {p} house]. {EP} {elder} [was waiting at the door|ran out and hugged {o}]. \"[There you are|I was so worried|Thank goodness you are safe]!\" {es} said. {H} thanked {F}. <{EP} {elder} gave {F}>{lesson}"),
"race": ("friend",
    DAY + "there was a big race {inP}. {scene}<All the animals>{H} wanted to win. \"I am the [fastest|quickest] of all,\" {s} said. " + MEET + " was [small|slow|shy], but {fs} wanted to run too. \"You will never win,\" said {H}. <{F} felt>\n\n"
    "[One, two, three, go|Ready, steady, go]! {H} ran [fast|very fast|like the wind]. <{H} looked back>But then {s} [fell over a root|slipped in the mud|tripped over a stone] and hurt {p} foot. \"[Ouch|Oh, my foot]!\" cried {H}. [One by one, the others ran past|Everybody ran past {o}]. Only {F} stopped. \"[Are you hurt|Let me help you|Take my hand],\" said {F}. <{F} helped>\n\n"
    "\"[But you could win|You should not stop for me|You will lose the race],\" said {H}. \"[A friend is better than a prize|It does not matter. You need help|Helping you is more important],\" said {F}. So they [walked|went] to the end together, [side by side|hand in hand]. Everybody [clapped|cheered]. <The crowd>\"[I am sorry that I was not nice|I was not kind to you. I am sorry],\" said {H}. {F} [smiled|gave {o} a hug]. {lesson}"),
"party": ("friend",
    "It was {H}'s birthday. {S} [woke up early|jumped out of bed]. <{H} hoped>But [nobody said anything|nobody came to the door]. {S} [went to see|asked] {G} the {gk}. \"I am [busy|very busy] today,\" said {G}. {H} felt " + SAD + ". \"[Did they all forget|Has everybody forgotten my birthday]?\" {s} thought. <{H} walked>\n\n"
    "[Then|Just then], " + MEET + " came running. \"[Come quickly|Come with me|Follow me], {H}!\" {fs} said. {scene}They [went|ran] to {P}. It was very quiet. [Suddenly|All at once], everybody jumped out. \"[Surprise|Happy birthday|Happy birthday, {H}]!\" they shouted. <There was>\n\n"
    "There were {food} and [balloons|songs|games] and a big cake. {F} gave {H} {a_obj}. <The {ob} was>{G} [laughed|smiled]. \"[We were all busy with your party|We could never forget you|We wanted to surprise you],\" {gs} said. They played {game} and [danced|sang]. <{H} was so>\"This is the best birthday ever,\" said {H}. "),
}

_alt = re.compile(r"\[([^\[\]]*)\]")


def expand(t, rng):
    """Resolve `[a|b]` from the inside out."""
    while True:
        m = _alt.search(t)
        if not m:
            return t
        t = t[:m.start()] + rng.choice(m.group(1).split("|")) + t[m.end():]


def an(s):
    return ("an " if s[0] in "aeiou" else "a ") + s


def top(t, rng):
    """Alternatives at the top level of a template whose parts contain brackets themselves."""
    parts, depth, cur = [], 0, ""
    for c in t:
        depth += (c == "[") - (c == "]")
        if c == "|" and depth == 0:
            parts.append(cur)
            cur = ""
        else:
            cur += c
    return rng.choice(parts + [cur])


def plan(seed):
    """One story as a string; teacher slots stay marked as <opening words>. Returns (text, names, values)."""
    r = random.Random(seed)
    names = []

    def who():
        girl = r.random() < 0.5
        n = r.choice([x for x in (GIRLS if girl else BOYS) if x not in names])
        names.append(n)
        return n, r.choice(KINDS), ("she", "her", "her") if girl else ("he", "his", "him"), girl
    H, hk, (s, p, o), girl = who()
    F, fk, (fs, fp, fo), _ = who()
    G, gk, (gs, _, _), _ = who()
    prep, P = r.choice(PLACES)
    ob = r.choice(FINDS)
    obj = r.choice([r.choice(COLORS), r.choice(COLORS), r.choice("little big old shiny pretty small".split())]) + " " + ob
    if r.random() < 0.3:
        hk = "girl" if girl else "boy"
    fear, calm, act = r.choice(FEARS)
    stuck, v, how, safe = r.choice([x for x in STUCK if x[1] != hk and x[1] != fk])
    make, mk, wrong = r.choice(MAKES)
    key = r.choice(list(PLOTS))
    elder, es = r.choice([e for e in ELDERS if key != "visit" or e[0] not in ("mother", "father")])
    brk = r.choice(BREAKS)
    brk = expand(brk, r)
    sd, pl = r.choice(SEEDS)
    k1, k2, k3 = r.sample(SEEK, 3)
    if key == "lost":
        ob = r.choice(TOYS)
        obj = r.choice(COLORS) + " " + ob
    lesson, body = PLOTS[key]
    trait = r.choice(TRAITS)
    d = dict(H=H, F=F, G=G, hk=hk, fk=fk, gk=gk, s=s, S=s.capitalize(), p=p, o=o, fs=fs, fp=fp, fo=fo, FP=fp.capitalize(),
             gs=gs, P=P, P0=P[4:], inP=prep + " " + P, obj=obj, ob=ob, a_obj=an(obj), a_hero=an(trait + " " + hk),
             food=r.choice(FOODS), sky=r.choice(SKIES), fear=fear, calm=calm, act=act, stuck=stuck, v=v, how=how, safe=safe,
             make=make, mk=mk, wrong=wrong, elder=elder, es=es, EP=p.capitalize(), brk=brk, brkn=brk.split(" of ")[0], seed=sd, plant=pl,
             k1=k1, k2=k2, k3=k3, game=r.choice(GAMES), home=expand(top(HOMES, r), r))
    t = top(OPEN, r)
    if "{about}" not in body and r.random() < 0.6:
        t += "{about}"
    t += "\n\n" if r.random() < 0.75 else ""
    if t.endswith("\n\n") and body.startswith("{about}"):
        t = t[:-2]
    t += body + (top(END, r) if key != "night" else "")
    for k, x in (("{about}", ABOUT), ("{scene}", SCENE), ("{lesson}", LESSON[lesson])):
        t = t.replace(k, top(x, r))
    t = expand(t, r).format(**d)
    t = expand(t, r)                       # values may hold alternatives themselves
    t = re.sub(r"<(\w)", lambda m: "<" + m.group(1).upper(), t)
    # capital letter at the start of each sentence, one space between sentences
    t = re.sub(r"(^|[.] |\n|>)([a-z])", lambda m: m.group(1) + m.group(2).upper(), t)
    d.update(plot=key, genders=("f" if girl else "m") + ("f" if fs == "she" else "m"))
    return t.strip(), names, d


if __name__ == "__main__":
    for i in range(6):
        print(plan(i)[0], "\n-----")
