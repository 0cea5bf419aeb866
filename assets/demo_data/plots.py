"""The plots of the stories: for each, sentences in order, with a few ways to say each one.

Fields: N the hero's name, A "a fox", a "fox", he/his/him, T "a lantern", t "lantern", W "in the forest",
P "the forest", F the friend's name, B "a bear", b "bear", q a trait of the hero ("brave"),
k a look of the thing ("golden").
"""

from __future__ import annotations

from .texts import phrases

OPENINGS = phrases(
    "Once upon a time there was {A} named {N} who lived {W}.|Once there was {Q} {a} named {N}, who lived {W}.|{N} "
    "was {Q} {a} who lived {W}.|There once lived {Q} {a} called {N} {W}.|Long ago, {A} named {N} had a home {W}."
)

PLOTS: dict[str, tuple[tuple[str, ...], ...]] = {
    "found": (
        (
            "One morning {N} found {K} {t} under a tree.",
            "One day {N} saw {K} {t} lying on the path.",
            "While walking one day, {N} found {K} {t}.",
        ),
        (
            '"Whose {t} is this?" {he} wondered.',
            '"Somebody must miss this {t}," {he} thought.',
            "{N} had never seen {T} so {k}.",
        ),
        (
            "{N} took the {t} and asked everyone about it.",
            "So {N} went from door to door with the {t}.",
            "{N} carried the {t} around and asked every neighbour.",
        ),
        (
            "At last {he} met {F} the {b}, who began to smile.",
            "In the evening {he} met {F} the {b}, who jumped with joy.",
            "Then {F} the {b} came running.",
        ),
        (
            '"That is my {t}!" said {F}. "Thank you, {N}!"',
            '"My {t}!" cried {F}. "I looked for it everywhere."',
            '"You found my {t}!" said {F} happily.',
        ),
        (
            "From that day on, {N} and {F} were good friends.",
            "They shared a cake and became friends.",
            "{N} went home happy, because {he} had made a friend.",
        ),
    ),
    "lost": (
        (
            "{N} had {K} {t} that {he} loved very much.",
            "The thing {he} loved most was {K} {t}.",
            "Every day {N} played with {his} {k} {t}.",
        ),
        (
            "But one day the {t} was gone.",
            "One windy morning the {t} was not there.",
            "Then, one evening, {he} could not find the {t}.",
        ),
        (
            "{N} looked under the bed, behind the door and up in the tree.",
            "{N} searched everywhere, but there was no {t}.",
            "{He} looked high and low and felt very sad.",
        ),
        (
            '"Do not cry," said {F} the {b}. "I will help you."',
            "{F} the {b} heard about it and came to help.",
            'Then {F} the {b} asked, "Shall we look together?"',
        ),
        (
            "Together they looked {W2}, and there was the {t}!",
            "They followed the tracks and found the {t} {W2}.",
            "After a long walk they saw the {t} {W2}.",
        ),
        (
            "{N} hugged {F} and said thank you.",
            '"You are a true friend, {F}," said {N}.',
            "{N} was so happy that {he} danced with {F}.",
        ),
        (
            "That night the {t} was safe at home.",
            "After that, {N} took good care of the {t}.",
            "And {N} never lost the {t} again.",
        ),
    ),
    "gift": (
        (
            "One day it was the birthday of {F} the {b}.",
            "{N} had a friend, {F} the {b}, and tomorrow was {F}'s birthday.",
            "{N} wanted to give something to {F} the {b}.",
        ),
        (
            "{N} did not know what to give.",
            "{N} thought about it all night.",
            '"What would {F} like?" {N} asked {himself}.',
        ),
        (
            "At last {he} made {K} {t} with {his} own hands.",
            "Then {he} went to the market and chose {K} {t}.",
            "In an old box {he} found {K} {t}.",
        ),
        (
            "{He} put the {t} in a box with a red ribbon.",
            "{He} wrapped the {t} in green leaves.",
            "{He} carried the {t} very carefully.",
        ),
        (
            '"{T}!" cried {F}. "I always wanted one!"',
            '{F} opened it and laughed. "What {K} {t}!"',
            "{F} was so happy about the {t} that {N} had to smile.",
        ),
        (
            "They ate cake until the moon came up.",
            "It was the best birthday of all.",
            "They sang and danced {W} all evening.",
        ),
    ),
    "storm": (
        (
            "One night a great storm came.",
            "One evening the wind began to blow very hard.",
            "One dark night it rained and rained.",
        ),
        (
            "{N} heard a small voice calling for help.",
            "Outside, somebody called for help.",
            '"Help!" cried a voice in the dark.',
        ),
        (
            "{N} was afraid, but {he} took {his} {t} and went out.",
            "{N} took {his} {k} {t} and ran into the rain.",
            "With {his} {t}, {N} went out into the night.",
        ),
        (
            "There was {F} the {b}, who had lost the way.",
            "It was {F} the {b}, who could not get home.",
            "Behind a rock sat {F} the {b}, cold and wet.",
        ),
        (
            "{N} used the {t} to help {F}.",
            "Thanks to the {t}, {N} could bring {F} home.",
            "The {t} was just what they needed, and soon they were safe.",
        ),
        (
            "They sat by the fire and drank warm milk.",
            "Inside it was warm, and they had hot soup.",
            "Soon they were dry and warm again.",
        ),
        (
            '"You are very brave," said {F}.',
            '"Thank you, {N}," said {F}. "You saved me."',
            "In the morning the sun was shining {W}.",
        ),
    ),
    "journey": (
        (
            "{N} had always wanted to see the world.",
            "One day {N} wanted to go on a journey.",
            '"Today I will go on an adventure," said {N} one morning.',
        ),
        (
            "{He} packed some bread and {K} {t}.",
            "{He} took only {his} {t} and an apple.",
            "{He} put {his} {k} {t} into a bag and set off.",
        ),
        ("On the way {he} met {F} the {b}.", "After a while {he} met {B} named {F}.", "Near a bridge sat {F} the {b}."),
        (
            '"Where are you going?" asked {F}. "May I come too?"',
            '"Take me with you!" said {F}.',
            '"I know the way," said {F}.',
        ),
        (
            "They walked over hills and crossed a river.",
            "They walked all day and slept under the stars.",
            "Together they climbed up to the top of a mountain.",
        ),
        (
            "When they were lost, the {t} helped them.",
            "When it was dark, {N} was glad to have the {t}.",
            "Once they almost lost the {t}, but {F} caught it.",
        ),
        (
            "At last they came home and told everyone about it.",
            "In the end they were glad to be back {W}.",
            'Back {W}, {N} said, "Home is the best place of all."',
        ),
    ),
    "bedtime": (
        (
            "One night {N} could not sleep.",
            "It was late, but {N} was not sleepy.",
            "The moon was up, but {N} lay awake.",
        ),
        (
            "{He} counted the stars, but that did not help.",
            "{He} turned to the left and to the right.",
            "{He} drank some warm milk and waited.",
        ),
        ("Then {he} saw {his} {k} {t} by the window.", "On the table was {K} {t}.", "Then {he} thought of {his} {t}."),
        (
            "{N} held the {t} close and closed {his} eyes.",
            "{N} put the {t} next to the bed.",
            "{N} took the {t} into {his} bed.",
        ),
        (
            "Outside, {F} the {b} sang a quiet song.",
            "Far away, {F} the {b} said good night to the moon.",
            "{F} the {b} came in and told a story.",
        ),
        (
            "Soon {N} was fast asleep and dreamed of the stars.",
            "Everything {W} became quiet, and {N} slept.",
            "And {N} slept until the morning came.",
        ),
    ),
    "funny": (
        (
            "One morning {N} put {K} {t} on {his} head.",
            "One day {N} thought that {his} {t} could fly.",
            "One day {N} tried to teach {his} {t} to sing.",
        ),
        (
            '"What are you doing?" asked {F} the {b}.',
            '{F} the {b} came by and laughed. "What is that?"',
            "{F} the {b} looked at {him} for a long time.",
        ),
        (
            '"This {t} is magic," said {N}.',
            '"I am the king of all {t}s!" said {N}.',
            '"Wait and see," said {N} proudly.',
        ),
        (
            "{N} jumped into the air and fell into the mud.",
            "Then {he} slipped and landed in a bucket.",
            "Just then {he} sneezed, and the {t} fell into the soup.",
        ),
        (
            "{F} laughed so much that {N} had to laugh too.",
            "Everyone {W} laughed, and {N} laughed the loudest.",
            "{F} helped {him} up, and they both laughed.",
        ),
        (
            "After that, {N} left the {t} at home.",
            "The {t} was never the same again.",
            "And the {t}? It was only {A2} {t}.",
        ),
    ),
    "share": (
        (
            "{N} had {K} {t} and did not want to share it.",
            "{N} was very proud of {his} {k} {t}.",
            "Nobody else was allowed to touch {N}'s {k} {t}.",
        ),
        (
            '"May I use it?" asked {F} the {b}. "No!" said {N}.',
            "{F} the {b} wanted to play too, but {N} said no.",
            'When {F} the {b} asked for it, {N} said, "It is mine."',
        ),
        ("So {F} went away, and {N} was alone.", "{F} was sad and walked home.", "Soon nobody came to play with {N}."),
        (
            "The {t} was not much fun without a friend.",
            "{N} looked at the {t} and felt lonely.",
            '"What good is {T} when I am alone?" {he} thought.',
        ),
        (
            "{He} ran to {F} and said sorry.",
            "{N} went to {F} with the {t}.",
            'The next day {he} said, "{F}, let us share it."',
        ),
        (
            "From then on they used the {t} together.",
            "They played {W} until the sun went down.",
            "{N} learned that sharing makes everything better.",
        ),
    ),
}
MOODS = {
    "funny": "funny",
    "silly": "funny",
    "bedtime": "bedtime",
    "good night": "bedtime",
    "scary": "storm",
    "exciting": "journey",
    "adventure": "journey",
}
